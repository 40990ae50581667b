// SPDX-License-Identifier: Apache-2.0
//
// Paged attention on the lanes and dots of the file that includes this.
//
// K and V of a block lie in memory as packed weights do (linear.h): K as a panel of 16 tokens by
// head_dim, V as a panel of 16 dimensions by tokens. So scores are a product over the dimensions
// and values one over the tokens, with the dots of the linear kernels. Where the cache's dtype is
// not what the dot multiplies (bf16 without bf16 products; i8 and E4M3, whose codes are exact in
// bf16), a block is widened into the scratch first. Over f32 queries and probabilities are f32
// too, over all else they are rounded to bf16.
//
// The KV is walked in tiles of whole blocks aligned to absolute positions; within a tile, scores
// walk the head's dimensions in order and values walk the tokens in order, and tiles are combined
// in order by an online softmax (Milakov and Gimelshein, 2018). A row's arithmetic does not depend
// on the rows computed beside it, nor on how queries are cut into chunks: tokens that it does not
// see have probability zero, and adding zero times a finite value changes no bit. What is not there
// yet may be anything, so the last block is replaced by a copy that is zero past the last token.
#ifndef ENGINERY_SRC_KERNELS_ATTENTION_H_
#define ENGINERY_SRC_KERNELS_ATTENTION_H_

#include "kernels/kernels.h"
#include "kernels/rows.h"

namespace enginery {
namespace {

// What the dots multiply, and how a row becomes that; OperandBf16 is the including file's.
struct OperandF32 : DotF32F32 {
  using Element = float;
  static ENGINERY_INLINE void StoreRow(float* p, int64_t n, F32 a) { StoreFirst(p, n, a); }
};
// The caches. Where the operand lies in memory as it is, nothing is widened.
struct CacheF32 {
  using Operand = OperandF32;
  static constexpr bool kIsOperand = true;
};
struct CacheBf16 {
  using Operand = OperandBf16;
  static constexpr bool kIsOperand = Operand::kGroup == 2;
  static constexpr int64_t kPairBytes = 4;
  static ENGINERY_INLINE Pairs LoadPairs(const std::byte* p) { return LoadBf16Pairs(p); }
};
struct CacheI8 {
  using Operand = OperandBf16;
  static constexpr bool kIsOperand = false;
  static constexpr int64_t kPairBytes = 2;
  static ENGINERY_INLINE Pairs LoadPairs(const std::byte* p) { return LoadI8Pairs(p); }
};
struct CacheE4M3 {
  using Operand = OperandBf16;
  static constexpr bool kIsOperand = false;
  static constexpr int64_t kPairBytes = 2;
  static ENGINERY_INLINE Pairs LoadPairs(const std::byte* p) { return LoadE4M3Pairs(p); }
};

// The state of the rows of one call, in AttentionArgs::scratch. Rows are padded to 16.
template <class Operand>
struct AttentionRows {
  using Element = typename Operand::Element;
  int64_t tile_tokens, padded_dim, q_pitch, p_pitch;  // pitches in elements
  Element* q;                                         // [rows][q_pitch], zero past head_dim
  float* scores;                                      // [rows][tile_tokens]
  Element* p;          // [rows][p_pitch], probabilities; zero past the tile's tokens
  float* sums;         // [rows][padded_dim], of values weighted by probabilities
  float* max;          // [rows]
  float* denominator;  // [rows]
  Element* block;      // K or V of one block: what is widened, or has to end in zeros

  AttentionRows(const AttentionArgs& args, int64_t num_rows)
      : tile_tokens(AttentionTileTokens(args.tokens_per_block)),
        padded_dim(PaddedHeadDim(args.head_dim)),
        q_pitch(PaddedKeyDim(args.head_dim)),
        p_pitch(tile_tokens + kKeyPadding) {
    const int64_t rows = (num_rows + 15) / 16 * 16;
    scores = args.scratch;
    sums = scores + rows * tile_tokens;
    max = sums + rows * padded_dim;
    denominator = max + rows;
    q = reinterpret_cast<Element*>(denominator + rows);
    p = q + rows * q_pitch;
    block = p + rows * p_pitch;
    for (int64_t r = 0; r < rows; ++r) {
      max[r] = -__builtin_inff();
      denominator[r] = 0.0f;
    }
    const auto clear = [](void* begin, int64_t count, size_t size) ENGINERY_LAMBDA_INLINE {
      __builtin_memset(begin, 0, static_cast<size_t>(count) * size);
    };
    clear(sums, rows * padded_dim, sizeof(float));
    clear(q, rows * q_pitch, sizeof(Element));
    clear(p, rows * p_pitch, sizeof(Element));
    for (int64_t r = 0; r < num_rows; ++r) {
      const float* from =
          args.q + r / args.group_size * args.q_pitch + r % args.group_size * args.head_dim;
      Element* to = q + r * q_pitch;
      ForEachPiece(args.head_dim, [=](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
        Operand::StoreRow(to + first, count, LoadFirst(from + first, count));
      });
    }
  }
};

// K or V of one block of a tile, as operands.
struct KvBlock {
  const std::byte* data;
  int64_t column;  // of the tile, of its first token
};

// Products of kRows rows by kVectors * 16 columns: to[r][16 v + lane] (+)= sum over groups of x
// times weights, as in a tile of a linear.
template <class Operand, bool kAccumulate, int kRows, int kVectors>
ENGINERY_INLINE void AttentionTile(const std::byte* x, int64_t x_pitch, const std::byte* weights,
                                   int64_t weights_pitch, int64_t groups, float* to,
                                   int64_t to_pitch) {
  F32 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = kAccumulate ? Load(to + r * to_pitch + v * kLanes) : Set1(0.0f);
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    typename Operand::Weight w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) w[v] = Operand::Load(weights + v * Operand::kWeightBytes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const typename Operand::Input input = Operand::Broadcast(x + r * x_pitch);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) Operand::Accumulate(sums[r][v], w[v], input);
    }
    weights += weights_pitch;
    x += Operand::kInputBytes;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Store(to + r * to_pitch + v * kLanes, sums[r][v]);
  }
}

// num_rows (1 .. kRows) rows by all columns, a multiple of 16.
template <class Operand, bool kAccumulate, int kRows, int kVectors>
void AttentionProduct(int64_t num_rows, int64_t columns, const std::byte* x, int64_t x_pitch,
                      const std::byte* weights, int64_t groups, float* to, int64_t to_pitch) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) {
      return AttentionProduct<Operand, kAccumulate, kRows - 1, kVectors>(
          num_rows, columns, x, x_pitch, weights, groups, to, to_pitch);
    }
  }
  const int64_t pitch = columns * Operand::kWeightBytes / kLanes;
  int64_t c = 0;
  for (; c + kVectors * kLanes <= columns; c += kVectors * kLanes) {
    AttentionTile<Operand, kAccumulate, kRows, kVectors>(
        x, x_pitch, weights + c / kLanes * Operand::kWeightBytes, pitch, groups, to + c, to_pitch);
  }
  for (; c < columns; c += kLanes) {
    AttentionTile<Operand, kAccumulate, kRows, 1>(
        x, x_pitch, weights + c / kLanes * Operand::kWeightBytes, pitch, groups, to + c, to_pitch);
  }
}

// Calls body(row, num_rows) for the rows [begin, end) in tiles of at most max_rows, as even as they
// can be.
template <class Body>
ENGINERY_INLINE void ForEachTile(int64_t begin, int64_t end, int64_t max_rows, Body body) {
  const int64_t num_tiles = (end - begin + max_rows - 1) / max_rows;
  int64_t row = begin;
  for (int64_t t = 1; t <= num_tiles; ++t) {
    const int64_t next = begin + (end - begin) * t / num_tiles;
    body(row, next - row);
    row = next;
  }
}

// The two products with vectors. AMX has its own (attention_amx.h).
template <class CacheType>
struct VectorProducts {
  using Cache = CacheType;
  using Operand = typename Cache::Operand;
  // Whether V is always read from a copy with whole tiles of tokens.
  static bool NeedsCopy(const AttentionArgs&) { return false; }
  static void Scores(const AttentionArgs& args, const AttentionRows<Operand>& rows,
                     int64_t row_begin, int64_t row_end, const KvBlock& block) {
    constexpr int64_t kElement = sizeof(typename Operand::Element);
    ForEachTile(row_begin, row_end, kScoreRows, [&](int64_t row, int64_t count) {
      AttentionProduct<Operand, false, kScoreRows, kScoreVectors>(
          count, args.tokens_per_block,
          reinterpret_cast<const std::byte*>(rows.q + row * rows.q_pitch), rows.q_pitch * kElement,
          block.data, (args.head_dim + Operand::kGroup - 1) / Operand::kGroup,
          rows.scores + row * rows.tile_tokens + block.column, rows.tile_tokens);
    });
  }
  static void Values(const AttentionArgs& args, const AttentionRows<Operand>& rows,
                     int64_t row_begin, int64_t row_end, const KvBlock& block) {
    constexpr int64_t kElement = sizeof(typename Operand::Element);
    ForEachTile(row_begin, row_end, kValueRows, [&](int64_t row, int64_t count) {
      AttentionProduct<Operand, true, kValueRows, kValueVectors>(
          count, rows.padded_dim,
          reinterpret_cast<const std::byte*>(rows.p + row * rows.p_pitch + block.column),
          rows.p_pitch * kElement, block.data, args.tokens_per_block / Operand::kGroup,
          rows.sums + row * rows.padded_dim, rows.padded_dim);
    });
  }
};

// Hides the scores of tokens outside [begin, end) and raises the row's maximum to those of the
// rest. What the maximum was before comes back. Vectors past the last seen token are not looked at.
template <class Operand>
ENGINERY_INLINE float RaiseMax(const AttentionRows<Operand>& rows, int64_t row, int64_t begin,
                               int64_t end) {
  float* scores = rows.scores + row * rows.tile_tokens;
  const int64_t seen = (end + kLanes - 1) / kLanes * kLanes;
  for (int64_t t = 0; t < begin; ++t) scores[t] = -__builtin_inff();
  for (int64_t t = end; t < seen; ++t) scores[t] = -__builtin_inff();
  F32 largest = Load(scores);
  for (int64_t t = kLanes; t < seen; t += kLanes) largest = Max(largest, Load(scores + t));
  const float old_max = rows.max[row];
  const float tile_max = ReduceMax(largest);
  rows.max[row] = old_max > tile_max ? old_max : tile_max;
  return old_max;
}

// Turns a row's scores of the tile's first `columns` tokens, of which those from `end` on are not
// seen, into 2^(factor * (score - max)), and corrects what earlier tiles left. factor is the scale
// of the scores times log2(e), at least 0.
template <class Operand>
ENGINERY_INLINE void SoftmaxRow(const AttentionRows<Operand>& rows, int64_t row, int64_t columns,
                                int64_t end, float old_max, float factor) {
  const float* scores = rows.scores + row * rows.tile_tokens;
  typename Operand::Element* p = rows.p + row * rows.p_pitch;
  const int64_t seen = (end + kLanes - 1) / kLanes * kLanes;
  const float max = rows.max[row];
  const F32 shift = Set1(-max * factor);
  F32 sum = Set1(0.0f);
  for (int64_t t = 0; t < seen; t += kLanes) {
    const F32 e = Exp2(MulAdd(Load(scores + t), Set1(factor), shift));
    Operand::StoreRow(p + t, kLanes, e);
    sum = Add(sum, e);
  }
  __builtin_memset(p + seen, 0,
                   static_cast<size_t>(columns - seen) * sizeof(typename Operand::Element));
  // 2^0 is exactly 1 here and 2^-inf exactly 0, so leaving them out changes nothing; most tiles
  // raise no maximum.
  float correction = 1.0f;
  if (old_max != max && old_max > -__builtin_inff()) {
    float lanes[kLanes];
    Store(lanes, Exp2(Set1((old_max - max) * factor)));
    correction = lanes[0];
    float* sums = rows.sums + row * rows.padded_dim;
    for (int64_t d = 0; d < rows.padded_dim; d += kLanes) {
      Store(sums + d, Mul(Load(sums + d), Set1(correction)));
    }
  }
  rows.denominator[row] = rows.denominator[row] * correction + ReduceAdd(sum);
}

constexpr int64_t Larger(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// [pair rows][columns][2] of the cache as operands.
template <class Cache>
void WidenPairs(const std::byte* from, int64_t pair_rows, int64_t columns,
                typename Cache::Operand::Element* to) {
  for (int64_t r = 0; r < pair_rows; ++r) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      Cache::Operand::StorePairs(to, r, c, columns, Cache::LoadPairs(from));
      from += kLanes * Cache::kPairBytes;
    }
  }
}

// The K of a block; tokens that are not there yet are anything.
template <class Cache>
const std::byte* ReadKeys(const AttentionArgs& args,
                          const AttentionRows<typename Cache::Operand>& rows, const std::byte* k) {
  if constexpr (Cache::kIsOperand) {
    return k;
  } else {
    WidenPairs<Cache>(k, PaddedKeyDim(args.head_dim) / 2, args.tokens_per_block, rows.block);
    return reinterpret_cast<const std::byte*>(rows.block);
  }
}

// The V of a block with zeros in place of its tokens from `count` on; where it need not be copied,
// the block itself.
template <class Products>
const std::byte* ReadValues(const AttentionArgs& args,
                            const AttentionRows<typename Products::Operand>& rows,
                            const std::byte* v, int64_t count) {
  using Cache = typename Products::Cache;
  using Operand = typename Products::Operand;
  using Element = typename Operand::Element;
  const bool is_whole = count == args.tokens_per_block && !Products::NeedsCopy(args);
  if (Cache::kIsOperand && is_whole) return v;
  const auto size = [&](int64_t tokens) {
    return static_cast<size_t>(tokens * rows.padded_dim) * sizeof(Element);
  };
  int64_t copied = count;
  if constexpr (Cache::kIsOperand) {
    copied = (count + Operand::kGroup - 1) / Operand::kGroup * Operand::kGroup;
    __builtin_memcpy(rows.block, v, size(copied));
  } else {
    copied = (count + 1) / 2 * 2;
    WidenPairs<Cache>(v, copied / 2, rows.padded_dim, rows.block);
  }
  // A whole tile of K: tokens_per_block may be less.
  const int64_t tokens = (args.tokens_per_block + kKeyPadding - 1) / kKeyPadding * kKeyPadding;
  if (Operand::kGroup == 1) copied = count;
  __builtin_memset(rows.block + copied * rows.padded_dim, 0, size(tokens - copied));
  // The second of a pair of which only the first is there.
  for (int64_t d = 0; copied > count && d < rows.padded_dim; ++d) {
    rows.block[(count - 1) * rows.padded_dim + 2 * d + 1] = 0;
  }
  return reinterpret_cast<const std::byte*>(rows.block);
}

template <class Products>
void Attention(const AttentionArgs& args) {
  using Operand = typename Products::Operand;
  constexpr float kLog2e = 1.44269504f;
  const int64_t window = args.sliding_window > 0 ? args.sliding_window : INT64_MAX / 2;
  const int64_t last_position = args.first_position + args.num_queries - 1;
  const int64_t num_rows = args.num_queries * args.group_size;
  const AttentionRows<Operand> rows(args, num_rows);
  const int64_t tile = rows.tile_tokens;

  const int64_t first_tile = Larger(0, args.first_position - window + 1) / tile;
  for (int64_t t = first_tile; t * tile <= last_position; ++t) {
    const int64_t tile_begin = t * tile;
    // Blocks that some row sees; those before the first window may be gone.
    const int64_t first_block =
        Larger(tile_begin, args.first_position - window + 1) / args.tokens_per_block;
    const int64_t last_block =
        Smaller(tile_begin + tile - 1, last_position) / args.tokens_per_block;
    const int64_t columns = (last_block + 1) * args.tokens_per_block - tile_begin;
    const auto block_at = [&](int64_t b) ENGINERY_LAMBDA_INLINE {
      return args.kv + args.block_table[b] * args.block_bytes;
    };

    // Queries that see some of the tile: those at or after its begin and before its end leaves
    // their windows.
    const int64_t first_query = Larger(0, tile_begin - args.first_position);
    const int64_t end_query =
        Smaller(args.num_queries, tile_begin + tile - 1 + window - args.first_position);
    const int64_t row_begin = first_query * args.group_size;
    const int64_t row_end = end_query * args.group_size;
    for (int64_t b = first_block; b <= last_block; ++b) {
      const std::byte* k = ReadKeys<typename Products::Cache>(args, rows, block_at(b));
      Products::Scores(args, rows, row_begin, row_end, {k, b * args.tokens_per_block - tile_begin});
    }
    // Maxima first and powers after, a few rows at a time: a row's maximum takes long to come, and
    // other rows' fill the time.
    const auto end_of = [&](int64_t row) ENGINERY_LAMBDA_INLINE {
      return Smaller(columns, args.first_position + row / args.group_size + 1 - tile_begin);
    };
    constexpr int64_t kRowsAtOnce = 8;
    for (int64_t first = row_begin; first < row_end; first += kRowsAtOnce) {
      const int64_t count = Smaller(kRowsAtOnce, row_end - first);
      float old_max[kRowsAtOnce];
      for (int64_t r = 0; r < count; ++r) {
        const int64_t position = args.first_position + (first + r) / args.group_size;
        old_max[r] = RaiseMax(rows, first + r, Larger(0, position - window + 1 - tile_begin),
                              end_of(first + r));
      }
      for (int64_t r = 0; r < count; ++r) {
        SoftmaxRow(rows, first + r, columns, end_of(first + r), old_max[r], args.scale * kLog2e);
      }
    }
    for (int64_t b = first_block; b <= last_block; ++b) {
      const int64_t count =
          Smaller(last_position + 1 - b * args.tokens_per_block, args.tokens_per_block);
      const std::byte* v = ReadValues<Products>(args, rows, block_at(b) + args.v_offset, count);
      Products::Values(args, rows, row_begin, row_end, {v, b * args.tokens_per_block - tile_begin});
    }
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    float* y = args.y + r / args.group_size * args.y_pitch + r % args.group_size * args.head_dim;
    const F32 inverse = Set1(args.value_scale / rows.denominator[r]);
    for (int64_t d = 0; d < args.head_dim; d += kLanes) {
      const F32 sums = Load(rows.sums + r * rows.padded_dim + d);
      StoreFirst(y + d, Smaller(kLanes, args.head_dim - d), Mul(sums, inverse));
    }
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_ATTENTION_H_
