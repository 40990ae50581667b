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
// in order by an online softmax (Milakov and Gimelshein, 2018). A few rows at a time go through
// scores, softmax and values, so that what lies between the three stays in L1. A row's arithmetic
// does not depend
// on the rows computed beside it, nor on how queries are cut into chunks: tokens that it does not
// see have probability zero, and adding zero times a finite value changes no bit. What is not there
// yet may be anything, so it is left out, or replaced by zeros where it stands beside the last
// token.
#ifndef ENGINERY_SRC_KERNELS_ATTENTION_H_
#define ENGINERY_SRC_KERNELS_ATTENTION_H_

#include "kernels/kernels.h"
#include "kernels/linear.h"
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
  float* sums;         // [rows][padded_dim], of values weighted by probabilities
  float* max;          // [rows]
  float* denominator;  // [rows]
  Element* copies;     // K and V of a tile: what is widened, or has to end in zeros
  // Of the rows from first_row on, as many as there are at once.
  int64_t first_row = 0;
  float* scores;  // [rows][tile_tokens]
  Element* p;     // [rows][p_pitch], probabilities; zero past the tile's tokens

  AttentionRows(const AttentionArgs& args, int64_t num_rows, int64_t rows_at_once)
      : tile_tokens(AttentionTileTokens(args.tokens_per_block)),
        padded_dim(PaddedHeadDim(args.head_dim)),
        q_pitch(PaddedKeyDim(args.head_dim)),
        p_pitch(tile_tokens + kKeyPadding) {
    const int64_t rows = (num_rows + 15) / 16 * 16;
    const int64_t at_once = rows_at_once < rows ? rows_at_once : rows;
    scores = args.scratch;
    sums = scores + at_once * tile_tokens;
    max = sums + rows * padded_dim;
    denominator = max + rows;
    q = reinterpret_cast<Element*>(denominator + rows);
    p = q + rows * q_pitch;
    copies = p + at_once * p_pitch;
    for (int64_t r = 0; r < rows; ++r) {
      max[r] = -__builtin_inff();
      denominator[r] = 0.0f;
    }
    const auto clear = [](void* begin, int64_t count, size_t size) ENGINERY_LAMBDA_INLINE {
      __builtin_memset(begin, 0, static_cast<size_t>(count) * size);
    };
    clear(q, rows * q_pitch, sizeof(Element));
    clear(p, at_once * p_pitch, sizeof(Element));
    for (int64_t i = 0; i < args.num_queries; ++i) TakeQuery(args, i);
    clear(sums, rows * padded_dim, sizeof(float));
  }

  float* scores_of(int64_t row) const { return scores + (row - first_row) * tile_tokens; }
  Element* p_of(int64_t row) const { return p + (row - first_row) * p_pitch; }
  float* sums_of(int64_t row) const { return sums + row * padded_dim; }

 private:
  // The heads of a query, normed and rotated, as operands. Norms go where sums will.
  void TakeQuery(const AttentionArgs& args, int64_t query) {
    const float* heads = args.q + query * args.q_pitch;
    // Of a long step queries lie in the last cache, and each one begins anew for a processor.
    for (int64_t d = 0; d < args.group_size * args.head_dim; d += kLanes) {
      __builtin_prefetch(heads + 2 * args.q_pitch + d);
    }
    int64_t pitch = args.head_dim;
    const int64_t row = query * args.group_size;
    if (args.q_norm != nullptr) {
      for (int64_t h = 0; h < args.group_size; ++h) {
        RmsNormRow(heads + h * pitch, args.q_norm, args.head_dim, args.epsilon, sums_of(row + h));
      }
      heads = sums_of(row);
      pitch = padded_dim;
    }
    const int64_t half = args.head_dim / 2;
    const float* cos = args.rope + query * args.rope_pitch;
    ForEachPiece(half, [&](int64_t first, int64_t count) ENGINERY_LAMBDA_INLINE {
      const F32 c = LoadFirst(cos + first, count);
      const F32 s = LoadFirst(cos + half + first, count);
      for (int64_t h = 0; h < args.group_size; ++h) {
        const float* low = heads + h * pitch + first;
        const Rotated head = Rotate(LoadFirst(low, count), LoadFirst(low + half, count), c, s);
        Element* to = q + (row + h) * q_pitch + first;
        Operand::StoreRow(to, count, head.low);
        Operand::StoreRow(to + half, count, head.high);
      }
    });
  }
};

// K or V of one block of a tile, as operands.
struct KvBlock {
  const std::byte* data;
  int64_t column;          // of the tile, of its first token
  int64_t groups;          // that are multiplied
  const std::byte* ahead;  // what is fetched meanwhile
};
struct KvBlocks {
  const KvBlock* first;
  int64_t count;

  // Those with any of the tile's tokens before `end`.
  KvBlocks Before(int64_t end) const {
    int64_t seen = count;
    while (seen > 0 && first[seen - 1].column >= end) --seen;
    return {first, seen};
  }
};

// Rows of x by the columns of blocks that follow each other.
struct BlockProduct {
  const std::byte* x;      // of row 0 and column 0 of the tile
  int64_t x_pitch;         // bytes from row to row
  int64_t x_column_bytes;  // of x from column to column of the tile; 0: the same x for all blocks
  KvBlocks blocks;
  int64_t columns;  // of each block
  float* to;
  int64_t to_pitch;
};

// kRows rows by kVectors * 16 columns from `column` on: to[r][16 v + lane] (+)= sum over blocks and
// groups of x times weights, as in a tile of a linear. kFetches: what is read next comes from
// memory meanwhile.
template <class Operand, bool kAccumulate, bool kFetches, int kRows, int kVectors>
ENGINERY_INLINE void AttentionTile(const BlockProduct& product, int64_t column) {
  F32 sums[kRows][kVectors];
  float* to = product.to + column;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = kAccumulate ? Load(to + r * product.to_pitch + v * kLanes) : Set1(0.0f);
    }
  }
  const int64_t weights_pitch = product.columns / kLanes * Operand::kWeightBytes;
  const int64_t offset = column / kLanes * Operand::kWeightBytes;
  for (int64_t b = 0; b < product.blocks.count; ++b) {
    const KvBlock& block = product.blocks.first[b];
    const std::byte* weights = block.data + offset;
    const std::byte* ahead = block.ahead + offset;
    const std::byte* x = product.x + block.column * product.x_column_bytes;
    for (int64_t g = 0; g < block.groups; ++g) {
      typename Operand::Weight w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (kFetches) __builtin_prefetch(ahead + v * Operand::kWeightBytes);
        w[v] = Operand::Load(weights + v * Operand::kWeightBytes);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const typename Operand::Input input = Operand::Broadcast(x + r * product.x_pitch);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) Operand::Accumulate(sums[r][v], w[v], input);
      }
      weights += weights_pitch;
      ahead += weights_pitch;
      x += Operand::kInputBytes;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) Store(to + r * product.to_pitch + v * kLanes, sums[r][v]);
  }
}

// num_rows (1 .. kRows) rows by all columns, a multiple of 16.
template <class Operand, bool kAccumulate, bool kFetches, int kRows, int kVectors>
void AttentionProduct(int64_t num_rows, const BlockProduct& product) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) {
      return AttentionProduct<Operand, kAccumulate, kFetches, kRows - 1, kVectors>(num_rows,
                                                                                   product);
    }
  }
  int64_t c = 0;
  for (; c + kVectors * kLanes <= product.columns; c += kVectors * kLanes) {
    AttentionTile<Operand, kAccumulate, kFetches, kRows, kVectors>(product, c);
  }
  for (; c < product.columns; c += kLanes) {
    AttentionTile<Operand, kAccumulate, kFetches, kRows, 1>(product, c);
  }
}

// The two products with vectors. AMX has its own (attention_amx.h).
template <class CacheType>
struct VectorProducts {
  using Cache = CacheType;
  using Operand = typename Cache::Operand;
  static constexpr int64_t kRowsAtOnce = kAttentionRows;
  // Whether V is read in whole tiles of so many tokens; 1: in groups.
  static constexpr int64_t kValueTokens = 1;
  static void Scores(const AttentionArgs& args, const AttentionRows<Operand>& rows,
                     int64_t row_begin, int64_t row_end, const KvBlocks& blocks) {
    const auto product = Fetches(args)
                             ? AttentionProduct<Operand, false, true, kScoreRows, kScoreVectors>
                             : AttentionProduct<Operand, false, false, kScoreRows, kScoreVectors>;
    for (int64_t b = 0; b < blocks.count; ++b) {
      const KvBlock& block = blocks.first[b];
      ForEachTile(row_begin, row_end, kScoreRows, [&](int64_t row, int64_t count) {
        product(count, {.x = reinterpret_cast<const std::byte*>(rows.q + row * rows.q_pitch),
                        .x_pitch = rows.q_pitch * kElement,
                        .x_column_bytes = 0,
                        .blocks = {&block, 1},
                        .columns = args.tokens_per_block,
                        .to = rows.scores_of(row) + block.column,
                        .to_pitch = rows.tile_tokens});
      });
    }
  }
  static void Values(const AttentionArgs& args, const AttentionRows<Operand>& rows,
                     int64_t row_begin, int64_t row_end, const KvBlocks& blocks) {
    const auto product = Fetches(args)
                             ? AttentionProduct<Operand, true, true, kValueRows, kValueVectors>
                             : AttentionProduct<Operand, true, false, kValueRows, kValueVectors>;
    ForEachTile(row_begin, row_end, kValueRows, [&](int64_t row, int64_t count) {
      product(count, {.x = reinterpret_cast<const std::byte*>(rows.p_of(row)),
                      .x_pitch = rows.p_pitch * kElement,
                      .x_column_bytes = kElement,
                      .blocks = blocks,
                      .columns = rows.padded_dim,
                      .to = rows.sums_of(row),
                      .to_pitch = rows.padded_dim});
    });
  }

 private:
  static constexpr int64_t kElement = sizeof(typename Operand::Element);
  // The rows of a decoding sequence multiply faster than the cache is read.
  static bool Fetches(const AttentionArgs& args) {
    return Cache::kIsOperand && args.num_queries * args.group_size <= kScoreRows;
  }
};

// What a row sees of a tile.
struct SeenTokens {
  int64_t begin, end;
};

// Calls body(token, scores) for the sixteens of tokens that are seen; scores of the others are
// -inf.
template <class Body>
ENGINERY_INLINE void ForEachSeen(const float* scores, const SeenTokens& seen, const Body& body) {
  int64_t t = 0;
  for (; t + kLanes <= seen.end; t += kLanes) body(t, Load(scores + t));
  if (t < seen.end) {
    body(t, LoadFirstOr(scores + t, seen.end - t, Set1(-__builtin_inff())));
  }
}

// Turns the scores of a tile's first `columns` tokens, in the `count` rows from `row` on, into
// 2^(factor * (score - max)), where max is the row's maximum so far, and corrects what earlier
// tiles left. factor is the scale of the scores times log2(e), at least 0. Several rows at once,
// because a row's maximum and sum take long to come, and its vectors are few.
template <class Operand>
ENGINERY_INLINE void Softmax(const AttentionRows<Operand>& rows, int64_t row, int64_t count,
                             const SeenTokens (&seen)[kReducedRows], int64_t columns,
                             float factor) {
  F32 reduced[kReducedRows];
  alignas(64) float tile_max[kLanes], shift[kLanes], correction[kLanes], sums[kLanes];
  for (int64_t r = 0; r < kReducedRows; ++r) reduced[r] = Set1(-__builtin_inff());
  for (int64_t r = 0; r < count; ++r) {
    float* scores = rows.scores_of(row + r);
    for (int64_t t = 0; t < seen[r].begin; ++t) scores[t] = -__builtin_inff();
    F32 largest = Set1(-__builtin_inff());
    ForEachSeen(scores, seen[r],
                [&](int64_t, F32 x) ENGINERY_LAMBDA_INLINE { largest = Max(largest, x); });
    reduced[r] = largest;
  }
  ReduceMaxEach(reduced, tile_max);
  const F32 old_max = LoadFirst(rows.max + row, count);
  const F32 max = Max(old_max, LoadFirst(tile_max, count));
  StoreFirst(rows.max + row, count, max);
  Store(shift, Mul(max, Set1(-factor)));
  // 2^0 is exactly 1 here and 2^-inf exactly 0.
  Store(correction, Exp2(Mul(Sub(old_max, max), Set1(factor))));
  for (int64_t r = 0; r < count; ++r) {
    typename Operand::Element* p = rows.p_of(row + r);
    F32 sum = Set1(0.0f);
    ForEachSeen(rows.scores_of(row + r), seen[r], [&](int64_t t, F32 x) ENGINERY_LAMBDA_INLINE {
      const F32 e = Exp2(MulAdd(x, Set1(factor), Set1(shift[r])));
      Operand::StoreRow(p + t, kLanes, e);
      sum = Add(sum, e);
    });
    reduced[r] = sum;
    for (int64_t t = (seen[r].end + kLanes - 1) / kLanes * kLanes; t < columns; t += kLanes) {
      Operand::StoreRow(p + t, kLanes, Set1(0.0f));
    }
    if (correction[r] != 1.0f) {
      float* values = rows.sums_of(row + r);
      for (int64_t d = 0; d < rows.padded_dim; d += kLanes) {
        Store(values + d, Mul(Load(values + d), Set1(correction[r])));
      }
    }
  }
  ReduceAddEach(reduced, sums);
  float* denominator = rows.denominator + row;
  const F32 before = Mul(LoadFirst(denominator, count), Load(correction));
  StoreFirst(denominator, count, Add(before, LoadFirst(sums, count)));
}

constexpr int64_t Larger(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Bytes of K and V that are on their way while others are multiplied: a block at least.
constexpr int64_t kAttentionAhead = 8192;

// [pair rows][columns][2] of the cache as operands. What is read next comes meanwhile.
template <class Cache>
void WidenPairs(const std::byte* from, const std::byte* ahead, int64_t pair_rows, int64_t columns,
                typename Cache::Operand::Element* to) {
  for (int64_t r = 0; r < pair_rows; ++r) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      __builtin_prefetch(ahead);
      Cache::Operand::StorePairs(to, r, c, columns, Cache::LoadPairs(from));
      from += kLanes * Cache::kPairBytes;
      ahead += kLanes * Cache::kPairBytes;
    }
  }
}

// The K of a block, widened to `copy` where need be; tokens that are not there yet are anything.
template <class Cache>
const std::byte* ReadKeys(const AttentionArgs& args, const std::byte* k, const std::byte* ahead,
                          typename Cache::Operand::Element* copy) {
  if constexpr (Cache::kIsOperand) {
    return k;
  } else {
    WidenPairs<Cache>(k, ahead, PaddedKeyDim(args.head_dim) / 2, args.tokens_per_block, copy);
    return reinterpret_cast<const std::byte*>(copy);
  }
}

// Tokens of the copy of a block's V: a whole tile of K, of which tokens_per_block may be less.
constexpr int64_t CopiedTokens(int64_t tokens_per_block) {
  return (tokens_per_block + kKeyPadding - 1) / kKeyPadding * kKeyPadding;
}

// Blocks of the sequence that a query sees.
ENGINERY_INLINE int64_t FirstBlock(const AttentionArgs& args) {
  if (args.sliding_window == 0) return 0;
  return Larger(0, args.first_position - args.sliding_window + 1) / args.tokens_per_block;
}
ENGINERY_INLINE int64_t LastBlock(const AttentionArgs& args) {
  return (args.first_position + args.num_queries - 1) / args.tokens_per_block;
}
ENGINERY_INLINE const std::byte* BlockAt(const AttentionArgs& args, int64_t block) {
  return args.kv + args.block_table[block] * args.block_bytes;
}

// The blocks of K and V in the order in which they are read: of each tile K, then V; after the last
// one, those of the thread's next call.
class ReadingOrder {
 public:
  explicit ReadingOrder(const AttentionArgs& args) { Begin(&args); }

  const std::byte* Next() {
    if (args_ == nullptr) return current_;  // in the caches
    current_ = BlockAt(*args_, block_) + (is_value_ ? args_->v_offset : 0);
    if (block_ < tile_end_ - 1) {
      ++block_;
    } else if (!is_value_) {
      is_value_ = true;
      block_ = tile_begin_;
    } else if (tile_end_ <= LastBlock(*args_)) {
      BeginTile(tile_end_);
    } else {
      Begin(args_->next);
    }
    return current_;
  }

 private:
  void Begin(const AttentionArgs* args) {
    args_ = args;
    if (args_ != nullptr) BeginTile(FirstBlock(*args_));
  }
  void BeginTile(int64_t block) {
    const int64_t blocks = AttentionTileTokens(args_->tokens_per_block) / args_->tokens_per_block;
    is_value_ = false;
    block_ = tile_begin_ = block;
    tile_end_ = Smaller((block / blocks + 1) * blocks, LastBlock(*args_) + 1);
  }

  const AttentionArgs* args_;
  bool is_value_ = false;
  int64_t block_ = 0, tile_begin_ = 0, tile_end_ = 0;
  const std::byte* current_ = nullptr;
};

// The blocks of one tile.
template <class Products>
class TileBlocks {
  using Cache = typename Products::Cache;
  using Operand = typename Products::Operand;
  using Element = typename Operand::Element;

 public:
  // The blocks [first_block, end_block) of a tile whose first token is tile_begin.
  TileBlocks(const AttentionArgs& args, const AttentionRows<Operand>& rows, int64_t tile_begin,
             int64_t first_block, int64_t end_block, ReadingOrder& ahead) {
    const int64_t tokens = args.tokens_per_block;
    const int64_t num_tokens = args.first_position + args.num_queries;
    auto* copy = rows.copies;
    for (int64_t b = first_block; b < end_block; ++b) {
      const std::byte* next = ahead.Next();
      keys_[num_keys_++] = {ReadKeys<Cache>(args, BlockAt(args, b), next, copy),
                            b * tokens - tile_begin,
                            (args.head_dim + Operand::kGroup - 1) / Operand::kGroup, next};
      copy += PaddedKeyDim(args.head_dim) * tokens;
    }
    for (int64_t b = first_block; b < end_block; ++b) {
      AddValues(args, rows, BlockAt(args, b) + args.v_offset, b * tokens - tile_begin,
                Smaller(num_tokens - b * tokens, tokens), ahead.Next(), copy);
      copy += CopiedTokens(tokens) * rows.padded_dim;
    }
  }
  KvBlocks keys() const { return {keys_, num_keys_}; }
  KvBlocks values() const { return {values_, num_values_}; }

 private:
  // The V of a block of which the first `count` tokens are there. What is not is left out or, in
  // `copy`, zero.
  void AddValues(const AttentionArgs& args, const AttentionRows<Operand>& rows, const std::byte* v,
                 int64_t column, int64_t count, const std::byte* ahead, Element* copy) {
    constexpr int64_t kGroup = Operand::kGroup;
    const int64_t whole = count / kGroup, groups = (count + kGroup - 1) / kGroup;
    const int64_t width = rows.padded_dim * kGroup;  // elements of a group
    const auto* copied = reinterpret_cast<const std::byte*>(copy);
    // The second token of a pair of which only the first is there.
    const auto clear_seconds = [&](Element* pair) ENGINERY_LAMBDA_INLINE {
      for (int64_t d = 0; groups > whole && d < rows.padded_dim; ++d) pair[2 * d + 1] = 0;
    };
    const bool needs_tiles = count % Products::kValueTokens != 0;
    if constexpr (Cache::kIsOperand) {
      if (!needs_tiles) {
        if (whole > 0) values_[num_values_++] = {v, column, whole, ahead};
        if (groups == whole) return;
        __builtin_memcpy(copy, v + whole * Operand::kWeightBytes * (rows.padded_dim / kLanes),
                         static_cast<size_t>(width) * sizeof(Element));
        clear_seconds(copy);
        values_[num_values_++] = {copied, column + whole * kGroup, 1, ahead};
        return;
      }
      __builtin_memcpy(copy, v, static_cast<size_t>(groups * width) * sizeof(Element));
    } else {
      WidenPairs<Cache>(v, ahead, (count + 1) / 2, rows.padded_dim, copy);
    }
    clear_seconds(copy + whole * width);
    if (needs_tiles) {
      const int64_t left = CopiedTokens(args.tokens_per_block) * rows.padded_dim - groups * width;
      __builtin_memset(copy + groups * width, 0, static_cast<size_t>(left) * sizeof(Element));
    }
    values_[num_values_++] = {copied, column, groups, ahead};
  }

  int64_t num_keys_ = 0, num_values_ = 0;
  KvBlock keys_[kMaxAttentionTileBlocks];
  KvBlock values_[kMaxAttentionTileBlocks + 1];  // the last group of all may be one of its own
};

ENGINERY_INLINE float* ResultOf(const AttentionArgs& args, int64_t row) {
  return args.y + row / args.group_size * args.y_pitch + row % args.group_size * args.head_dim;
}

// Where a row goes has left the caches since it was last written.
ENGINERY_INLINE void FetchResult(const AttentionArgs& args, int64_t row) {
  const float* y = ResultOf(args, row);
  for (int64_t d = 0; d < args.head_dim; d += kLanes) __builtin_prefetch(y + d, 1);
}

template <class Products>
void Attention(const AttentionArgs& args) {
  using Operand = typename Products::Operand;
  constexpr float kLog2e = 1.44269504f;
  const int64_t window = args.sliding_window > 0 ? args.sliding_window : INT64_MAX / 2;
  const int64_t last_position = args.first_position + args.num_queries - 1;
  const int64_t num_rows = args.num_queries * args.group_size;
  AttentionRows<Operand> rows(args, num_rows, Products::kRowsAtOnce);
  const int64_t tile = rows.tile_tokens;

  ReadingOrder ahead(args);
  for (int64_t fetched = 0; fetched < kAttentionAhead; fetched += args.v_offset) ahead.Next();
  const int64_t tile_blocks = tile / args.tokens_per_block;
  for (int64_t t = FirstBlock(args) / tile_blocks; t * tile <= last_position; ++t) {
    const int64_t tile_begin = t * tile;
    // Blocks that some row sees; those before the first window may be gone.
    const int64_t first_block = Larger(t * tile_blocks, FirstBlock(args));
    const int64_t end_block = Smaller((t + 1) * tile_blocks, LastBlock(args) + 1);
    const int64_t tile_columns = end_block * args.tokens_per_block - tile_begin;
    const TileBlocks<Products> blocks(args, rows, tile_begin, first_block, end_block, ahead);

    // Queries that see some of the tile: those at or after its begin and before its end leaves
    // their windows.
    const int64_t first_query = Larger(0, tile_begin - args.first_position);
    const int64_t end_query =
        Smaller(args.num_queries, tile_begin + tile - 1 + window - args.first_position);
    const int64_t row_end = end_query * args.group_size;
    const auto end_of = [&](int64_t row) ENGINERY_LAMBDA_INLINE {
      return Smaller(tile_columns, args.first_position + row / args.group_size + 1 - tile_begin);
    };
    for (int64_t begin = first_query * args.group_size; begin < row_end;) {
      rows.first_row = begin / Products::kRowsAtOnce * Products::kRowsAtOnce;
      const int64_t end = Smaller(row_end, rows.first_row + Products::kRowsAtOnce);
      if ((t + 1) * tile > last_position) {
        for (int64_t r = begin; r < end; ++r) FetchResult(args, r);
      }
      // No row sees more than the last one.
      const KvBlocks keys = blocks.keys().Before(end_of(end - 1));
      const int64_t columns = keys.first[keys.count - 1].column + args.tokens_per_block;
      Products::Scores(args, rows, begin, end, keys);
      for (int64_t first = begin; first < end; first += kReducedRows) {
        const int64_t count = Smaller(kReducedRows, end - first);
        SeenTokens seen[kReducedRows];
        for (int64_t r = 0; r < count; ++r) {
          const int64_t position = args.first_position + (first + r) / args.group_size;
          seen[r] = {Larger(0, position - window + 1 - tile_begin), end_of(first + r)};
        }
        Softmax(rows, first, count, seen, columns, args.scale * kLog2e);
      }
      Products::Values(args, rows, begin, end, blocks.values().Before(end_of(end - 1)));
      begin = end;
    }
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    float* y = ResultOf(args, r);
    const F32 inverse = Set1(args.value_scale / rows.denominator[r]);
    for (int64_t d = 0; d < args.head_dim; d += kLanes) {
      const F32 sums = Load(rows.sums_of(r) + d);
      StoreFirst(y + d, Smaller(kLanes, args.head_dim - d), Mul(sums, inverse));
    }
  }
}

}  // namespace
}  // namespace enginery

#endif  // ENGINERY_SRC_KERNELS_ATTENTION_H_
