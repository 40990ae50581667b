// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "base/str_cat.h"
#include "engine/invalid.h"
#include "exec/ops/ops.h"
#include "exec/ops/rows.h"

namespace enginery {
namespace {

float ToF32(float value) { return value; }
float ToF32(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }
float ToF32(int8_t value) { return value; }

// Element [n][k] of layout n16k{group} stands at ((n / 16 * ceil(K / group) + k / group) * 16 + n %
// 16) * group + k % group; rows are the layout of one channel per panel and one group.
struct Strides {
  int64_t panel_channels, group;
};

template <class T>
class Embed final : public Op {
 public:
  Embed(const ValueOperand& x, const T* weight, const float* scale, Strides strides)
      : x_(x), weight_(weight), scale_(scale), strides_(strides) {}

  void Run(const StepContext& context) const override {
    const Matrix& x = context.value(x_.index);
    const int64_t group = strides_.group;
    const int64_t groups = (x_.columns + group - 1) / group;
    ForEachRow(context, context.batch.num_tokens, x_.columns, [&](int64_t row, int) {
      const int64_t id = context.batch.token_ids[row];
      const T* first = weight_ +
                       id / strides_.panel_channels * groups * group * strides_.panel_channels +
                       id % strides_.panel_channels * group;
      float* to = x.row<float>(row);
      for (int64_t k = 0; k < x_.columns; k += group) {
        const T* from = first + k * strides_.panel_channels;
        const int64_t end = std::min(k + group, x_.columns);
        for (int64_t i = k; i < end; ++i) to[i] = ToF32(from[i - k]);
      }
      if (scale_ != nullptr) {
        for (int64_t k = 0; k < x_.columns; ++k) to[k] *= scale_[id];
      }
    });
  }

  OpWork Work(const StepContext& context) const override {
    const int64_t row_bytes = x_.columns * int64_t{sizeof(T)} + (scale_ == nullptr ? 0 : 4);
    return {.op = "embed", .bytes = context.batch.num_tokens * row_bytes};
  }

 private:
  const ValueOperand x_;
  const T* weight_;
  const float* scale_;
  const Strides strides_;
};

template <class T>
PreparedStep MakeEmbed(const StepReader& step, const ValueOperand& x, const Tensor& weight,
                       const float* scale, Layout packed, int64_t group) {
  Strides strides{};
  if (weight.layout == Layout::kRows) {
    strides = {1, x.columns};
  } else if (weight.layout == packed) {
    strides = {kPanelChannels, group};
  } else {
    step.ThrowUnsupported(StrCat("weight ", Quoted(weight.name), " is ", Name(weight.dtype), " in ",
                                 Name(weight.layout), "; accepted: rows, ", Name(packed)));
  }
  return std::make_unique<Embed<T>>(x, reinterpret_cast<const T*>(weight.data), scale, strides);
}

}  // namespace

PreparedStep PrepareEmbed(const StepReader& step, PlanBuilder& plan) {
  step.Expect(2, 1, {});
  const Tensor& weight = step.tensor(0);
  const int64_t vocab_size = plan.config().vocab_size;
  const ValueOperand x = step.output(0, {DType::kF32});
  if (weight.shape.size() != 2 || weight.shape[0] != static_cast<uint64_t>(vocab_size) ||
      weight.shape[1] != static_cast<uint64_t>(x.columns) || x.rows != Rows::kTokens) {
    step.ThrowInvalid(StrCat("weight ", Quoted(weight.name), " must be [", vocab_size, ", ",
                             x.columns, "] and the output of tokens"));
  }
  const float* scale = step.optional_f32_vector(1, vocab_size);
  switch (weight.dtype) {
    case DType::kF32:
      return MakeEmbed<float>(step, x, weight, scale, Layout::kN16K1, 1);
    case DType::kBF16:
      return MakeEmbed<uint16_t>(step, x, weight, scale, Layout::kN16K2, 2);
    case DType::kI8:
      return MakeEmbed<int8_t>(step, x, weight, scale, Layout::kN16K4, 4);
    default:
      step.ThrowUnsupported(StrCat("weight ", Quoted(weight.name), " is ", Name(weight.dtype),
                                   "; accepted: f32, bf16, i8"));
  }
}

}  // namespace enginery
