// SPDX-License-Identifier: Apache-2.0
//
// Paged attention on the lanes of the file that includes this. The KV is walked in tiles of one
// block each, so tiles are aligned to absolute positions; within a tile, scores walk the head's
// dimensions in order and values walk the tokens in order, and tiles are combined in order by an
// online softmax (Milakov and Gimelshein, 2018). A row's arithmetic does not depend on the rows
// computed beside it, nor on how queries are cut into chunks.
#ifndef ENGINERY_SRC_KERNELS_ATTENTION_H_
#define ENGINERY_SRC_KERNELS_ATTENTION_H_

#include "kernels/kernels.h"
#include "kernels/rows.h"

namespace enginery {
namespace {

struct KvF32 {
  using Element = float;
  static ENGINERY_INLINE F32 Load(const float* p) { return enginery::Load(p); }
};
struct KvBf16 {
  using Element = uint16_t;
  static ENGINERY_INLINE F32 Load(const uint16_t* p) { return LoadBf16(p); }
};

// The state of the rows of one call, in AttentionArgs::scratch.
struct AttentionRows {
  int64_t tokens_per_block, padded_dim;
  const float** q;     // [rows]
  float* scores;       // [rows][tokens_per_block], then the probabilities
  float* sums;         // [rows][padded_dim], of values weighted by probabilities
  float* max;          // [rows]
  float* denominator;  // [rows]
  float* correction;   // [rows], of what earlier tiles left

  AttentionRows(const AttentionArgs& args, int64_t rows)
      : tokens_per_block(args.tokens_per_block), padded_dim(PaddedHeadDim(args.head_dim)) {
    scores = args.scratch;
    sums = scores + rows * tokens_per_block;
    q = reinterpret_cast<const float**>(sums + rows * padded_dim);
    max = reinterpret_cast<float*>(q + rows);
    denominator = max + rows;
    correction = denominator + rows;
    for (int64_t r = 0; r < rows; ++r) {
      q[r] = args.q + r / args.group_size * args.q_pitch + r % args.group_size * args.head_dim;
      max[r] = -__builtin_inff();
      denominator[r] = 0.0f;
      for (int64_t d = 0; d < padded_dim; ++d) sums[r * padded_dim + d] = 0.0f;
    }
  }
};

// Scores of kRows rows against kVectors * 16 tokens of a tile.
template <class Kv, int kRows, int kVectors>
ENGINERY_INLINE void ScoreTile(const AttentionRows& rows, int64_t row, int64_t token,
                               int64_t head_dim, float scale, const typename Kv::Element* k) {
  F32 scores[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) scores[r][v] = Set1(0.0f);
  }
  for (int64_t d = 0; d < head_dim; ++d) {
    F32 keys[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      keys[v] = Kv::Load(k + d * rows.tokens_per_block + token + v * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32 q = Set1(rows.q[row + r][d]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) scores[r][v] = MulAdd(q, keys[v], scores[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* to = rows.scores + (row + r) * rows.tokens_per_block + token + v * kLanes;
      Store(to, Mul(scores[r][v], Set1(scale)));
    }
  }
}

// num_rows (1 .. kRows) rows against the whole tile.
template <class Kv, int kRows>
void ScoreRows(const AttentionRows& rows, int64_t row, int64_t num_rows, int64_t head_dim,
               float scale, const typename Kv::Element* k) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) {
      return ScoreRows<Kv, kRows - 1>(rows, row, num_rows, head_dim, scale, k);
    }
  }
  int64_t token = 0;
  for (; token + kScoreVectors * kLanes <= rows.tokens_per_block; token += kScoreVectors * kLanes) {
    ScoreTile<Kv, kRows, kScoreVectors>(rows, row, token, head_dim, scale, k);
  }
  for (; token < rows.tokens_per_block; token += kLanes) {
    ScoreTile<Kv, kRows, 1>(rows, row, token, head_dim, scale, k);
  }
}

// Turns a row's scores into exp(score - max), zero outside [begin, end), and notes how earlier
// tiles must be corrected.
void SoftmaxRow(const AttentionRows& rows, int64_t row, int64_t begin, int64_t end) {
  float* scores = rows.scores + row * rows.tokens_per_block;
  for (int64_t t = 0; t < begin; ++t) scores[t] = -__builtin_inff();
  for (int64_t t = end; t < rows.tokens_per_block; ++t) scores[t] = -__builtin_inff();
  F32 largest = Load(scores);
  for (int64_t t = kLanes; t < rows.tokens_per_block; t += kLanes) {
    largest = Max(largest, Load(scores + t));
  }
  const float old_max = rows.max[row];
  const float tile_max = ReduceMax(largest);
  const float new_max = old_max > tile_max ? old_max : tile_max;
  F32 sum = Set1(0.0f);
  for (int64_t t = 0; t < rows.tokens_per_block; t += kLanes) {
    const F32 p = Exp(Sub(Load(scores + t), Set1(new_max)));
    Store(scores + t, p);
    sum = Add(sum, p);
  }
  // e^0 is exactly 1 here and e^-inf exactly 0, so leaving them out changes nothing; most tiles
  // raise no maximum.
  float correction = old_max == new_max ? 1.0f : 0.0f;
  if (old_max != new_max && old_max > -__builtin_inff()) {
    float lanes[kLanes];
    Store(lanes, Exp(Set1(old_max - new_max)));
    correction = lanes[0];
  }
  rows.max[row] = new_max;
  rows.correction[row] = correction;
  rows.denominator[row] = rows.denominator[row] * correction + ReduceAdd(sum);
}

// sums = sums * correction + probabilities * V over the tokens [begin, end), kVectors * 16
// dimensions from dim.
template <class Kv, int kRows, int kVectors>
ENGINERY_INLINE void ValueTile(const AttentionRows& rows, int64_t row, int64_t begin, int64_t end,
                               int64_t dim, const typename Kv::Element* v) {
  F32 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      const F32 earlier = Load(rows.sums + (row + r) * rows.padded_dim + dim + i * kLanes);
      sums[r][i] = Mul(earlier, Set1(rows.correction[row + r]));
    }
  }
  for (int64_t t = begin; t < end; ++t) {
    F32 values[kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      values[i] = Kv::Load(v + t * rows.padded_dim + dim + i * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F32 p = Set1(rows.scores[(row + r) * rows.tokens_per_block + t]);
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) sums[r][i] = MulAdd(p, values[i], sums[r][i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      Store(rows.sums + (row + r) * rows.padded_dim + dim + i * kLanes, sums[r][i]);
    }
  }
}

// num_rows (1 .. kRows) rows over the tokens [begin, end), which all of them see.
template <class Kv, int kRows>
void ValueRows(const AttentionRows& rows, int64_t row, int64_t num_rows, int64_t begin, int64_t end,
               const typename Kv::Element* v) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) return ValueRows<Kv, kRows - 1>(rows, row, num_rows, begin, end, v);
  }
  int64_t dim = 0;
  for (; dim + kValueVectors * kLanes <= rows.padded_dim; dim += kValueVectors * kLanes) {
    ValueTile<Kv, kRows, kValueVectors>(rows, row, begin, end, dim, v);
  }
  for (; dim < rows.padded_dim; dim += kLanes) {
    ValueTile<Kv, kRows, 1>(rows, row, begin, end, dim, v);
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

constexpr int64_t Larger(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class Kv>
void Attention(const AttentionArgs& args) {
  const int64_t tile = args.tokens_per_block;
  const int64_t window = args.sliding_window > 0 ? args.sliding_window : INT64_MAX / 2;
  const int64_t last_position = args.first_position + args.num_queries - 1;
  const int64_t num_rows = args.num_queries * args.group_size;
  const AttentionRows rows(args, num_rows);

  const int64_t first_tile = Larger(0, args.first_position - window + 1) / tile;
  for (int64_t t = first_tile; t * tile <= last_position; ++t) {
    const int64_t tile_begin = t * tile;
    const std::byte* block = args.kv + args.block_table[t] * args.block_bytes;
    const auto* k = reinterpret_cast<const typename Kv::Element*>(block);
    const auto* v = reinterpret_cast<const typename Kv::Element*>(block + args.v_offset);

    // Queries that see some of the tile: those at or after its begin and before its end leaves
    // their windows.
    const int64_t first_query = Larger(0, tile_begin - args.first_position);
    const int64_t end_query =
        Smaller(args.num_queries, tile_begin + tile - 1 + window - args.first_position);
    const int64_t row_begin = first_query * args.group_size;
    const int64_t row_end = end_query * args.group_size;
    ForEachTile(row_begin, row_end, kScoreRows, [&](int64_t row, int64_t count) {
      ScoreRows<Kv, kScoreRows>(rows, row, count, args.head_dim, args.scale, k);
    });
    const auto begin_of = [&](int64_t row) ENGINERY_LAMBDA_INLINE {
      const int64_t position = args.first_position + row / args.group_size;
      return Larger(0, position - window + 1 - tile_begin);
    };
    const auto end_of = [&](int64_t row) ENGINERY_LAMBDA_INLINE {
      const int64_t position = args.first_position + row / args.group_size;
      return Smaller(tile, position + 1 - tile_begin);
    };
    for (int64_t r = row_begin; r < row_end; ++r) SoftmaxRow(rows, r, begin_of(r), end_of(r));
    // Rows that see the same tokens go together. A row never touches values that it does not see,
    // not even with probability 0: they may belong to no one and hold anything.
    for (int64_t r = row_begin; r < row_end;) {
      const int64_t begin = begin_of(r);
      const int64_t end = end_of(r);
      int64_t last = r + 1;
      while (last < row_end && begin_of(last) == begin && end_of(last) == end) ++last;
      ForEachTile(r, last, kValueRows, [&](int64_t row, int64_t count) {
        ValueRows<Kv, kValueRows>(rows, row, count, begin, end, v);
      });
      r = last;
    }
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    float* y = args.y + r / args.group_size * args.y_pitch + r % args.group_size * args.head_dim;
    const F32 inverse = Set1(1.0f / rows.denominator[r]);
    for (int64_t d = 0; d < args.head_dim; d += kLanes) {
      const F32 sums = Load(rows.sums + r * rows.padded_dim + d);
      StoreFirst(y + d, Smaller(kLanes, args.head_dim - d), Mul(sums, inverse));
    }
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_ATTENTION_H_
