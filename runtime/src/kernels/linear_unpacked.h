// SPDX-License-Identifier: Apache-2.0
//
// Products with weights that no instruction multiplies: a few panels are unpacked into the scratch,
// to i8 or bf16, and multiplied there by another kernel. An i4 code times the multiplier of its
// group is an i8 weight, so with x of i8 sums are the exact i32 sums over those weights. With x of
// bf16 a weight is code * scale, rounded to bf16 or to E4M3, or an E4M3 code: bf16 holds all of
// them exactly.
#ifndef ENGINERY_SRC_KERNELS_LINEAR_UNPACKED_H_
#define ENGINERY_SRC_KERNELS_LINEAR_UNPACKED_H_

#include "kernels/kernels.h"

namespace enginery {
namespace {

// Weights come from memory: each piece asks for what lies this far ahead.
constexpr int64_t kUnpackAhead = 4096;

// Byte b of a channel's 4 bytes in a group of 8 k holds the codes of k = b in its low half and of
// k = 4 + b in its high half. See Unpack64 and LoadI4 of the including file (lanes_*.h).
struct I4Panels {
  static constexpr int64_t kBytes = 64;
  static int64_t PanelBytesOf(int64_t k) { return PanelBytes(k, 8); }
  // Calls body(weights, i) for each eighth i of k, after group(g) for each group's first.
  template <class Group, class Body>
  static ENGINERY_INLINE void ForEachEighth(const LinearArgs& args, int64_t panel, Group group,
                                            Body body) {
    const std::byte* weight =
        static_cast<const std::byte*>(args.weight) + panel * PanelBytesOf(args.k);
    const int64_t eighths = (args.k + 7) / 8, num_groups = args.num_groups();
    int64_t i = 0;
    for (int64_t g = 0; g < num_groups; ++g) {
      group(panel * num_groups + g);
      const int64_t group_end = (g + 1) * (args.group / 8);
      const int64_t end = group_end < eighths ? group_end : eighths;
      for (; i < end; ++i) {
        __builtin_prefetch(weight + i * kBytes + kUnpackAhead, 0, 2);
        body(weight + i * kBytes, i);
      }
    }
  }
};

struct I4ToI8 : I4Panels {
  static int64_t UnpackedBytes(int64_t k) { return PanelBytes(k, 4); }
  static ENGINERY_INLINE void Panel(const LinearArgs& args, int64_t panel, std::byte* to) {
    GroupScales scales;
    ForEachEighth(
        args, panel,
        [&](int64_t group) ENGINERY_LAMBDA_INLINE {
          scales = LoadGroupScales(args.group_scales + group * kPanelChannels);
        },
        [&](const std::byte* weight, int64_t i)
            ENGINERY_LAMBDA_INLINE { Unpack64(weight, scales, to + i * 2 * kBytes); });
  }
};

// What a code times its scale is rounded to; both round to values that bf16 holds.
struct ToBf16 {
  static ENGINERY_INLINE F32 Round(const F32& a) { return RoundToBf16(a); }
  static ENGINERY_INLINE void Store(std::byte* p, const F32& even, const F32& odd) {
    StoreRoundedBf16Pairs(p, even, odd);
  }
};
struct ToE4M3 {
  static ENGINERY_INLINE F32 Round(const F32& a) { return RoundToE4M3(a); }
  static ENGINERY_INLINE void Store(std::byte* p, const F32& even, const F32& odd) {
    StoreBf16Pairs(p, {Round(even), Round(odd)});
  }
};

template <class Rounded>
struct I4Times : I4Panels {
  static int64_t UnpackedBytes(int64_t k) { return PanelBytes(k, 2); }
  static ENGINERY_INLINE void Panel(const LinearArgs& args, int64_t panel, std::byte* to) {
    F32 scales = Set1(0.0f);
    ForEachEighth(
        args, panel,
        [&](int64_t group)
            ENGINERY_LAMBDA_INLINE { scales = Load(args.block_scales + group * kPanelChannels); },
        [&](const std::byte* weight, int64_t i) ENGINERY_LAMBDA_INLINE {
          std::byte* at = to + i * 4 * kBytes;
          const auto store = [&]<int j>() ENGINERY_LAMBDA_INLINE {
            Rounded::Store(at + j / 2 * kBytes, Mul(LoadI4<j>(weight), scales),
                           Mul(LoadI4<j + 1>(weight), scales));
          };
          store.template operator()<0>();
          store.template operator()<2>();
          store.template operator()<4>();
          store.template operator()<6>();
        });
  }
};

using I4ToBf16 = I4Times<ToBf16>;
using I4ToE4M3 = I4Times<ToE4M3>;

struct E4M3ToBf16 {
  static int64_t PanelBytesOf(int64_t k) { return PanelBytes(k, 2, 32); }
  static int64_t UnpackedBytes(int64_t k) { return PanelBytes(k, 2); }
  static ENGINERY_INLINE void Panel(const LinearArgs& args, int64_t panel, std::byte* to) {
    const std::byte* weight =
        static_cast<const std::byte*>(args.weight) + panel * PanelBytesOf(args.k);
    for (int64_t i = 0; i < (args.k + 1) / 2; ++i) {
      __builtin_prefetch(weight + i * 32 + kUnpackAhead, 0, 2);
      StoreBf16Pairs(to + i * 64, LoadE4M3Pairs(weight + i * 32));
    }
  }
};

template <class Unpack, LinearKernel kLinear, int64_t kPanels = kUnpackedPanels>
void LinearUnpacked(const LinearArgs& args) {
  const int64_t unpacked_bytes = Unpack::UnpackedBytes(args.k);
  for (int64_t panel = args.panel_begin; panel < args.panel_end; panel += kPanels) {
    const int64_t end = panel + kPanels < args.panel_end ? panel + kPanels : args.panel_end;
    // In order: a panel writes whole eights of k, and what is past its end belongs to the next one.
    for (int64_t p = panel; p < end; ++p) {
      Unpack::Panel(args, p, args.scratch + (p - panel) * unpacked_bytes);
    }
    LinearArgs unpacked = OfPanels(args, panel, end, Unpack::PanelBytesOf(args.k));
    unpacked.weight = args.scratch;
    unpacked.next = nullptr;
    kLinear(unpacked);
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_LINEAR_UNPACKED_H_
