// SPDX-License-Identifier: Apache-2.0
#include "engine/tensor_reader.h"

#include <string>
#include <unordered_set>

#include "engine/format.h"
#include "engine/invalid.h"

namespace enginery {
namespace {

constexpr enginery_status kStatus = ENGINERY_INVALID_TENSOR;
constexpr uint32_t kMaxRank = 4;
constexpr uint64_t kPanel = 16;  // output channels of a panel

// Elements along K that stand together in a panel.
uint64_t Group(Layout layout) {
  switch (layout) {
    case Layout::kN16K2:
      return 2;
    case Layout::kN16K4:
      return 4;
    case Layout::kN16K8:
      return 8;
    case Layout::kRows:
    case Layout::kN16K1:
      break;
  }
  return 1;
}

std::optional<uint64_t> RoundUp(uint64_t value, uint64_t multiple) {
  return CheckedMultiply(value / multiple + (value % multiple != 0), multiple);
}

DType ReadDType(const std::string& name, std::string_view field) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI8, DType::kI32,
                            DType::kF8E4M3, DType::kI4}) {
    if (name == Name(dtype)) return dtype;
  }
  ThrowInvalid(kStatus, field, Quoted(name), "f32, bf16, f16, i8, i32, f8e4m3, i4");
}

Layout ReadLayout(const std::string& name, std::string_view field) {
  for (const Layout layout :
       {Layout::kRows, Layout::kN16K1, Layout::kN16K2, Layout::kN16K4, Layout::kN16K8}) {
    if (name == Name(layout)) return layout;
  }
  ThrowInvalid(kStatus, field, Quoted(name), "rows, n16k1, n16k2, n16k4, n16k8");
}

std::vector<uint64_t> ReadShape(ByteSpan record, Layout layout, const std::string& where) {
  const uint32_t rank = Load<uint32_t>(record, 24);
  if (layout == Layout::kRows) {
    RequireRange(kStatus, where + ": rank", rank, 1, kMaxRank);
  } else {
    RequireRange(kStatus, where + ": rank of a packed tensor", rank, 2, 2);
  }
  std::vector<uint64_t> shape;
  for (uint32_t i = 0; i < kMaxRank; ++i) {
    const uint64_t size = Load<uint64_t>(record, 48 + 8 * size_t{i});
    if (i >= rank) {
      RequireRange(kStatus, StrCat(where, ": unused shape[", i, "]"), size, 0, 0);
    } else if (size == 0) {
      ThrowInvalid(kStatus, StrCat(where, ": shape[", i, "]"), size, "at least 1");
    } else {
      shape.push_back(size);
    }
  }
  return shape;
}

// i4 has panels of its own, and its rows begin at whole bytes.
void CheckInt4(const Tensor& tensor, const std::string& where) {
  if (tensor.dtype != DType::kI4) {
    if (tensor.layout == Layout::kN16K8) {
      ThrowInvalid(kStatus, where + ": dtype in n16k8", Quoted(Name(tensor.dtype)), "i4");
    }
    return;
  }
  if (tensor.layout != Layout::kRows && tensor.layout != Layout::kN16K8) {
    ThrowInvalid(kStatus, where + ": layout of i4", Quoted(Name(tensor.layout)), "rows, n16k8");
  }
  if (tensor.layout == Layout::kRows && tensor.shape.back() % 2 != 0) {
    ThrowInvalid(kStatus, where + ": last dimension of i4", tensor.shape.back(), "even sizes");
  }
}

Tensor ReadTensor(ProgramImage& image, uint32_t index, ByteSpan file,
                  const std::vector<Section>& sections) {
  const ByteSpan record = image.tensors()[index];
  std::string where = StrCat("tensors[", index, "]");
  Tensor tensor;
  tensor.name = image.Name(record, 0, kStatus, where + ".name");
  where += " " + Quoted(tensor.name);
  tensor.dtype = ReadDType(image.String(record, 8, kStatus, where + ": dtype"), where + ": dtype");
  tensor.layout =
      ReadLayout(image.String(record, 16, kStatus, where + ": layout"), where + ": layout");
  tensor.shape = ReadShape(record, tensor.layout, where);
  CheckInt4(tensor, where);

  tensor.section = Load<uint32_t>(record, 28);
  RequireRange(kStatus, where + ": section", tensor.section, 0, sections.size() - 1);
  tensor.offset = Load<uint64_t>(record, 32);
  if (tensor.offset % kMinAlignment != 0) {
    ThrowInvalid(kStatus, where + ": offset", tensor.offset, "a multiple of 64");
  }
  tensor.bytes = Load<uint64_t>(record, 40);
  const std::optional<uint64_t> needed = TensorBytes(tensor.dtype, tensor.layout, tensor.shape);
  if (needed != tensor.bytes) {
    ThrowInvalid(kStatus, where + ": bytes", tensor.bytes,
                 needed.has_value() ? StrCat(*needed, ", what dtype, layout and shape need")
                                    : "a shape whose size fits 64 bits");
  }
  const Section& section = sections[tensor.section];
  if (!FitsIn(tensor.offset, tensor.bytes, section.bytes)) {
    throw Error(kStatus, StrCat(where, ": offset ", tensor.offset, " and bytes ", tensor.bytes,
                                " reach beyond section ", Quoted(section.name), " of ",
                                section.bytes, " bytes"));
  }
  if (!IsZero(record.subspan(80, 16))) {
    throw Error(kStatus, where + ": the bytes 80..95 of the record are not zero");
  }
  tensor.data = file.data() + section.offset + tensor.offset;
  return tensor;
}

}  // namespace

std::optional<uint64_t> TensorBytes(DType dtype, Layout layout, std::span<const uint64_t> shape) {
  std::optional<uint64_t> bytes = dtype == DType::kI4 ? 1 : ElementBits(dtype) / 8;
  for (size_t i = 0; i < shape.size() && bytes.has_value(); ++i) {
    std::optional<uint64_t> size = shape[i];
    if (layout != Layout::kRows) size = RoundUp(shape[i], i == 0 ? kPanel : Group(layout));
    if (dtype == DType::kI4 && i + 1 == shape.size() && size.has_value()) size = *size / 2;
    bytes = size.has_value() ? CheckedMultiply(*bytes, *size) : std::nullopt;
  }
  return bytes;
}

std::vector<Tensor> ReadTensors(ProgramImage& image, ByteSpan file,
                                const std::vector<Section>& sections) {
  std::vector<Tensor> tensors;
  tensors.reserve(image.tensors().size());  // names in `names` stay where they are
  std::unordered_set<std::string_view> names;
  for (uint32_t i = 0; i < image.tensors().size(); ++i) {
    tensors.push_back(ReadTensor(image, i, file, sections));
    if (!names.insert(tensors.back().name).second) {
      throw Error(kStatus, StrCat("tensors[", i, "].name ", Quoted(tensors.back().name),
                                  " is the name of two tensors; accepted: unique names"));
    }
  }
  return tensors;
}

}  // namespace enginery
