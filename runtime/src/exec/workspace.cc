// SPDX-License-Identifier: Apache-2.0
#include "exec/workspace.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/str_cat.h"

namespace enginery {
namespace {

constexpr int64_t kAlignment = 64;  // a cache line, a vector register
// Far above any workspace, far below where sums of buffers could wrap.
constexpr int64_t kMaxBufferBytes = int64_t{1} << 44;

int64_t RoundUp(int64_t value) { return (value + kAlignment - 1) / kAlignment * kAlignment; }

int64_t Pitch(const BufferSpec& buffer) {
  const int64_t bytes = buffer.columns * static_cast<int64_t>(ElementBits(buffer.dtype) / 8);
  if (buffer.is_dense) return bytes;
  // Rows a multiple of 2 KiB apart would compete for the same few sets of the L1 cache.
  const int64_t pitch = RoundUp(bytes);
  return pitch % 2048 == 0 ? pitch + kAlignment : pitch;
}

struct Extent {
  int64_t pitch, scales_offset, bytes;
};

Extent Measure(const BufferSpec& buffer, int64_t num_rows) {
  const int64_t pitch = Pitch(buffer);
  if (num_rows > kMaxBufferBytes / pitch) {
    throw Error(ENGINERY_INVALID_ARGUMENT,
                StrCat("limits: ", num_rows, " rows of ", pitch,
                       " bytes are more than can be addressed: lower max_num_tokens"));
  }
  const int64_t scales_offset = RoundUp(num_rows * pitch);
  const int64_t scales_bytes = buffer.dtype == DType::kI8 ? num_rows * 4 : 0;
  return {pitch, scales_offset, RoundUp(scales_offset + scales_bytes)};
}

bool LiveTogether(const BufferSpec& a, const BufferSpec& b) {
  return a.first_step <= b.last_step && b.first_step <= a.last_step;
}

// Offsets by which no two buffers that live together overlap: the largest first, each at the lowest
// place that is free.
std::vector<int64_t> Place(const std::vector<BufferSpec>& buffers,
                           const std::vector<Extent>& extents) {
  std::vector<size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater<>{}, [&](size_t i) { return extents[i].bytes; });

  std::vector<int64_t> offsets(buffers.size());
  std::vector<size_t> placed;
  for (const size_t i : order) {
    std::vector<size_t> neighbours;
    std::ranges::copy_if(placed, std::back_inserter(neighbours),
                         [&](size_t j) { return LiveTogether(buffers[i], buffers[j]); });
    std::ranges::sort(neighbours, {}, [&](size_t j) { return offsets[j]; });
    int64_t offset = 0;
    for (const size_t j : neighbours) {
      if (offset + extents[i].bytes <= offsets[j]) break;
      offset = std::max(offset, offsets[j] + extents[j].bytes);
    }
    offsets[i] = offset;
    placed.push_back(i);
  }
  return offsets;
}

}  // namespace

Workspace::Workspace(const std::vector<BufferSpec>& buffers, int64_t max_num_tokens,
                     int64_t max_logit_rows) {
  std::vector<Extent> extents;
  for (const BufferSpec& buffer : buffers) {
    const int64_t num_rows = buffer.rows == Rows::kTokens ? max_num_tokens : max_logit_rows;
    extents.push_back(Measure(buffer, buffer.last_step < buffer.first_step ? 0 : num_rows));
  }
  const std::vector<int64_t> offsets = Place(buffers, extents);
  int64_t bytes = 0;
  for (size_t i = 0; i < buffers.size(); ++i) {
    bytes = std::max(bytes, offsets[i] + extents[i].bytes);
  }
  memory_ = Reservation(static_cast<uint64_t>(bytes), "workspace", Pages::kLarge);
  for (size_t i = 0; i < buffers.size(); ++i) {
    std::byte* data = memory_.data() + offsets[i];
    float* scales = buffers[i].dtype == DType::kI8
                        ? reinterpret_cast<float*>(data + extents[i].scales_offset)
                        : nullptr;
    values_.push_back({data, extents[i].pitch, scales});
  }
}

}  // namespace enginery
