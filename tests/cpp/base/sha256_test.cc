// SPDX-License-Identifier: Apache-2.0
#include "base/sha256.h"

#include <string>
#include <vector>

#include "check.h"

namespace enginery::test {
namespace {

ByteSpan Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// FIPS 180-4 examples and values of other implementations at the edges of a block.
TEST(known_digests) {
  CHECK_EQ(ToHex(Sha256Of({})), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK_EQ(ToHex(Sha256Of(Bytes("abc"))),
           "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_EQ(ToHex(Sha256Of(Bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"))),
           "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK_EQ(ToHex(Sha256Of(Bytes(std::string(1000000, 'a')))),
           "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  CHECK_EQ(ToHex(Sha256Of(Bytes(std::string(55, 'x')))),
           "d5e285683cd4efc02d021a5c62014694958901005d6f71e89e0989fac77e4072");
  CHECK_EQ(ToHex(Sha256Of(Bytes(std::string(56, 'x')))),
           "04c26261370ee7541549d16dee320c723e3fd14671e66a099afe0a377c16888e");
  CHECK_EQ(ToHex(Sha256Of(Bytes(std::string(63, 'x')))),
           "75220b47218278e656f2013bb8f0c455a25eaf01e86c64924e9d48d89776d6f2");
  CHECK_EQ(ToHex(Sha256Of(Bytes(std::string(64, 'x')))),
           "7ce100971f64e7001e8fe5a51973ecdfe1ced42befe7ee8d5fd6219506b5393c");
  CHECK_EQ(ToHex(Sha256Of(Bytes(std::string(65, 'x')))),
           "9537c5fdf120482f7d58d25e9ed583f52c02b4e304ea814db1633ad565aed7e9");
  CHECK_EQ(ToHex(Sha256Of(Bytes(std::string(119, 'x')))),
           "000b48d4edf0fa7bee3c6236ecd2785baa5db4eeb8bb54341b029e0d9fa5fb0c");
  CHECK_EQ(ToHex(Sha256Of(Bytes(std::string(120, 'x')))),
           "13f05a0b594787f5ecd315edc96141bd3243203d1b7d4f0836f37308b276ba98");
}

TEST(pieces_give_the_digest_of_the_whole) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * 7);
  const Sha256Digest whole = Sha256Of(Bytes(text));
  for (const size_t piece : {1, 19, 63, 64, 65, 128, 299}) {
    Sha256 hash;
    for (size_t at = 0; at < text.size(); at += piece) hash.Update(Bytes(text.substr(at, piece)));
    CHECK(hash.Finish() == whole);
  }
}

TEST(sha_instructions_agree_with_the_portable_code) {
  const Sha256Compress with_instructions = Sha256CompressShaNi();
  if (with_instructions == nullptr) return;  // a machine that has none uses the portable code
  std::vector<std::byte> blocks(64 * 37);
  uint32_t x = 1;
  for (std::byte& byte : blocks)
    byte = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
  for (const size_t num_blocks : {0, 1, 2, 37}) {
    uint32_t portable[8] = {1, 0xffffffff, 3, 0x80000000, 5, 6, 7, 8};
    uint32_t fast[8] = {1, 0xffffffff, 3, 0x80000000, 5, 6, 7, 8};
    Sha256CompressPortable(portable, blocks.data(), num_blocks);
    with_instructions(fast, blocks.data(), num_blocks);
    for (int i = 0; i < 8; ++i) CHECK_EQ(portable[i], fast[i]);
  }
}

}  // namespace
}  // namespace enginery::test
