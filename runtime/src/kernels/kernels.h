// SPDX-License-Identifier: Apache-2.0
//
// The cpu kernels: raw pointers in, raw pointers out, one table per instruction set. They check
// nothing; exec/ops does.
//
// Every kernel computes a row (a token) in an order of floating-point operations that depends on
// the row's length and on the table alone: not on how many rows are computed together, nor on how
// the work is cut into calls. That is what makes a request's results independent of batch, chunking
// and threads. Between tables, the rows that quantise, add, multiply or sum groups, linear_i8_i8
// and linear_i8_i4 agree bit for bit; the others agree to rounding.
#ifndef ENGINERY_SRC_KERNELS_KERNELS_H_
#define ENGINERY_SRC_KERNELS_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace enginery {

// Output channels in a panel of a packed weight (docs/engine-format.md, layouts n16k{1,2,4,8}).
inline constexpr int64_t kPanelChannels = 16;
// Zero point of quantised activations: they are kept as q + 128 in u8, so that VNNI takes them as
// they are.
inline constexpr int kActivationZeroPoint = 128;
// k that may share a scale of an i4 weight, and the zero point of its codes.
inline constexpr int64_t kWeightGroups[] = {128, 64, 32};
inline constexpr int kI4ZeroPoint = 8;

// y[rows, n] = x[rows, k] W[n, k]^T * x_scale * scale + bias for the panels [panel_begin,
// panel_end).
struct LinearArgs {
  const void* x;               // [num_rows, k] of f32, bf16 or u8 (q + 128)
  int64_t x_pitch;             // bytes from row to row
  const float* x_scale;        // [num_rows], u8 only
  const void* weight;          // packed, all panels
  const float* scale;          // [n] or null
  const float* bias;           // [n] or null
  const int32_t* column_sums;  // [n], u8 only: sum over k of W[n][k]
  const int8_t* group_scales;  // [panels][num_groups()][16], i4 by u8: W = group scale * code
  const float* block_scales;   // likewise, i4 by bf16: W = block scale * code, rounded
  int64_t group;               // i4 only: k that share a scale, one of kWeightGroups
  std::byte* scratch;          // LinearScratchBytes(k), aligned to 64 bytes
  float* y;                    // [num_rows, n]
  int64_t y_pitch;             // floats from row to row
  int64_t num_rows, n, k;
  int64_t panel_begin, panel_end;
  bool accumulate;   // y += instead of y =
  bool is_prepared;  // scratch is as the last call with the same kernel, x and rows left it
  const void* next;  // packed weights that the thread is likely to multiply next, or null

  int64_t num_groups() const { return (k + group - 1) / group; }
};
using LinearKernel = void (*)(const LinearArgs& args);

// Panels that are unpacked at once at most (linear_unpacked.h).
inline constexpr int64_t kUnpackedPanels = 4;
// What is widened at once (linear_widened_avx2.h): groups of k of a panel and of rows of x, for as
// many sums.
inline constexpr int64_t kWidenedGroups = 256, kWidenedRows = 128, kWidenedPanels = 16;
// What the kernels of any table need: unpacked panels, or what is widened and its sums.
constexpr int64_t LinearScratchBytes(int64_t k) {
  constexpr int64_t kLineBytes = 64;
  const int64_t unpacked = kUnpackedPanels * kPanelChannels * ((k + 7) / 8 * 8) * 2;
  const int64_t widened = kWidenedGroups * kLineBytes +
                          kWidenedRows * (kWidenedGroups * 4 + kLineBytes) +
                          kWidenedRows * kWidenedPanels * kLineBytes;
  return unpacked > widened ? unpacked : widened;
}
// Bytes of a panel, whose 16 channels take group_bytes for each group of k: 4 bytes each, but for
// E4M3, which takes 2.
constexpr int64_t PanelBytes(int64_t k, int64_t group, int64_t group_bytes = 64) {
  return (k + group - 1) / group * group_bytes;
}

// The same product without the panels before `panel` and from `panel_end` on.
inline LinearArgs OfPanels(LinearArgs args, int64_t panel, int64_t panel_end, int64_t panel_bytes) {
  const int64_t channel = panel * kPanelChannels;
  args.weight = static_cast<const std::byte*>(args.weight) + panel * panel_bytes;
  if (args.scale != nullptr) args.scale += channel;
  if (args.bias != nullptr) args.bias += channel;
  if (args.column_sums != nullptr) args.column_sums += channel;
  if (args.group_scales != nullptr) args.group_scales += channel * args.num_groups();
  if (args.block_scales != nullptr) args.block_scales += channel * args.num_groups();
  args.y += channel;
  args.n = (panel_end * kPanelChannels < args.n ? panel_end * kPanelChannels : args.n) - channel;
  args.panel_begin = 0;
  args.panel_end = panel_end - panel;
  return args;
}

// Causal attention of consecutive queries of one sequence over one KV head. Queries are normed
// where there is a norm, and rotated. Rows are (query, head of the group). Elements of the cache
// stand together in groups of g (f32 1, all others 2): K of a block is [KeyDim /
// g][tokens_per_block][g] and V [tokens_per_block / g][PaddedHeadDim(head_dim)] [g], like packed
// weights. K past head_dim is zero. V past head_dim may be anything finite.
struct AttentionArgs {
  const float* q;       // query 0, first head of the group; the group's heads follow each other
  int64_t q_pitch;      // floats from query to query
  const float* q_norm;  // [head_dim], the weight of an RMS norm, or null
  float epsilon;        // of the norm
  const float* rope;    // of query 0: head_dim / 2 cosines, then as many sines
  int64_t rope_pitch;   // floats from query to query
  int64_t num_queries, group_size, head_dim;
  int64_t first_position;      // of query 0; query i stands at first_position + i
  int64_t sliding_window;      // 0: none
  float scale;                 // of the scores, times that of K's codes
  float value_scale;           // of V's codes; 1 where V is not quantised
  const std::byte* kv;         // K of this layer and head in block 0
  int64_t block_bytes;         // from block to block
  int64_t v_offset;            // bytes from K to V
  const int32_t* block_table;  // of the sequence
  int64_t tokens_per_block;    // a multiple of 16
  float* y;                    // like q
  int64_t y_pitch;
  float* scratch;             // AttentionScratchFloats(...), aligned to 64 bytes
  const AttentionArgs* next;  // what the thread is likely to run next, or null
};
using AttentionKernel = void (*)(const AttentionArgs& args);

constexpr int64_t PaddedHeadDim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
// Dimensions of K that are there in all caches but f32, so that they fill whole tiles of bf16; f32
// has head_dim.
inline constexpr int64_t kKeyPadding = 32;
constexpr int64_t PaddedKeyDim(int64_t head_dim) {
  return (head_dim + kKeyPadding - 1) / kKeyPadding * kKeyPadding;
}
// Tokens of a tile: softmax is corrected once per tile. A block has 16 tokens at least.
inline constexpr int64_t kAttentionTileTokens = 128;
inline constexpr int64_t kMaxAttentionTileBlocks = kAttentionTileTokens / 16;
constexpr int64_t AttentionTileTokens(int64_t tokens_per_block) {
  return tokens_per_block >= kAttentionTileTokens
             ? tokens_per_block
             : kAttentionTileTokens / tokens_per_block * tokens_per_block;
}
// Floats of scratch for num_rows = num_queries * group_size: scores, sums, maxima, denominators,
// operands, and K and V of a tile.
constexpr int64_t AttentionScratchFloats(int64_t num_rows, int64_t tokens_per_block,
                                         int64_t head_dim) {
  const int64_t rows = (num_rows + 15) / 16 * 16;
  const int64_t tile = AttentionTileTokens(tokens_per_block);
  return rows * (2 * tile + kKeyPadding + PaddedHeadDim(head_dim) + PaddedKeyDim(head_dim) + 2) +
         (3 * tile + kKeyPadding) * PaddedKeyDim(head_dim);
}

struct Kernels {
  const char* name;             // amx, avx512, avx2, portable
  int64_t panels_at_once = 4;   // by linear kernels, of many rows
  int64_t min_gated_rows = 16;  // from how many on gated kernels are the faster ones

  // linear_<type of x>_<type of W>
  LinearKernel linear_f32_f32;    // W n16k1
  LinearKernel linear_bf16_bf16;  // W n16k2
  LinearKernel linear_i8_i8;      // W n16k4
  LinearKernel linear_f32_i8;     // W n16k4
  LinearKernel linear_bf16_i8;    // W n16k4
  LinearKernel linear_i8_i4;      // W n16k8
  LinearKernel linear_bf16_e4m3;  // W n16k2
  LinearKernel linear_bf16_i4;    // W n16k8, block scale * code rounded to bf16
  LinearKernel linear_e4m3_i4;    // W n16k8, the same rounded to E4M3; x of bf16

  // Gated products, y[rows, n / 2] = silu(gate) * up in bf16 (y points to these, and y_pitch counts
  // them), where the first n / 2 channels are gates and the rest their ups; panels are those of the
  // gates, n is a multiple of 32. The bits are those of the linear, silu_mul_row and bf16_row after
  // each other. Null where there is none.
  LinearKernel gated_bf16_bf16;
  LinearKernel gated_i8_i8;

  AttentionKernel attention_f32;   // KV in f32
  AttentionKernel attention_bf16;  // KV in bf16
  AttentionKernel attention_i8;    // KV in i8
  AttentionKernel attention_e4m3;  // KV in FP8 E4M3

  // y = x / sqrt(mean(x^2) + epsilon) * weight; y may be x.
  void (*rms_norm_row)(const float* x, const float* weight, int64_t n, float epsilon, float* y);
  // y = gate / (1 + exp(-gate)) * up
  void (*silu_mul_row)(const float* gate, const float* up, int64_t n, float* y);
  // y += x
  void (*add_row)(const float* x, int64_t n, float* y);
  // y = x * factor; y may be x.
  void (*multiply_row)(const float* x, const float* factor, int64_t n, float* y);
  // y[i] = the sum of columns i * group up to the next group or n, in the order that
  // docs/engine-format.md states (group_sums).
  void (*group_sums_row)(const float* x, int64_t n, int64_t group, float* y);
  void (*group_sums_bf16_row)(const uint16_t* x, int64_t n, int64_t group, float* y);
  // Of codes + 128: the exact sum of the codes, at most 2^24 of them, times scale.
  void (*group_sums_i8_row)(const uint8_t* x, int64_t n, int64_t group, float scale, float* y);
  // Rotates the pairs (x[i], x[i + head_dim / 2]) of each head by the angles whose cosines and
  // sines are given, head_dim / 2 of each.
  void (*rope_heads)(float* x, int64_t num_heads, int64_t head_dim, const float* cos,
                     const float* sin);
  // Rounds to nearest even.
  void (*bf16_row)(const float* x, int64_t n, uint16_t* y);
  // Codes of x * inverse_scale: rint within -128..127, and E4M3 rounded to nearest even within
  // -448..448.
  void (*i8_row)(const float* x, int64_t n, float inverse_scale, uint8_t* y);
  void (*e4m3_row)(const float* x, int64_t n, float inverse_scale, uint8_t* y);
  // Both rows rounded, in turn: y[2 i] = a[i], y[2 i + 1] = b[i].
  void (*bf16_row_pair)(const float* a, const float* b, int64_t n, uint16_t* y);
  // By a static scale: i8_row's codes + 128, and e4m3_row's values, NaN too, as bf16.
  void (*static_i8_row)(const float* x, int64_t n, float inverse_scale, uint8_t* y);
  void (*static_e4m3_row)(const float* x, int64_t n, float inverse_scale, uint16_t* y);
  // scale = max|x| / 127 (1 for a row of zeros), y = clamp(rint(x * (127 / max|x|)), -127, 127) +
  // 128.
  void (*quantize_row)(const float* x, int64_t n, uint8_t* y, float* scale);
  void (*quantize_bf16_row)(const uint16_t* x, int64_t n, uint8_t* y, float* scale);
  // rms_norm_row, then quantize_row, bit for bit.
  void (*quantize_rms_norm_row)(const float* x, const float* weight, int64_t n, float epsilon,
                                uint8_t* y, float* scale);
};

// The table for `isa`: auto (the best this machine has), amx, avx512, avx2, portable. Null when the
// name is unknown or the machine lacks the instruction set.
const Kernels* FindKernels(const char* isa);

// What each file of kernels defines; only FindKernels may ask for a table, after it has asked the
// machine.
const Kernels& AmxKernels();
const Kernels& Avx512Kernels();
const Kernels& Avx2Kernels();
const Kernels& PortableKernels();

}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_KERNELS_H_
