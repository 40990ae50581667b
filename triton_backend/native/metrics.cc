// SPDX-License-Identifier: Apache-2.0
#include "metrics.h"

#include "base/str_cat.h"
#include "triton_calls.h"

namespace enginery::triton {
namespace {

using Labels = Metrics::Labels;

Labels With(Labels labels, const std::string& name, const std::string& value) {
  if (!name.empty()) labels.emplace_back(name, value);
  return labels;
}

class Parameters {
 public:
  explicit Parameters(const Labels& labels) {
    for (const auto& [name, value] : labels) {
      raw_.push_back(
          TRITONSERVER_ParameterNew(name.c_str(), TRITONSERVER_PARAMETER_STRING, value.c_str()));
    }
  }
  ~Parameters() {
    for (const TRITONSERVER_Parameter* each : raw_) {
      TRITONSERVER_ParameterDelete(const_cast<TRITONSERVER_Parameter*>(each));
    }
  }
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  TRITONSERVER_Metric* NewMetric(TRITONSERVER_MetricFamily* family) {
    TRITONSERVER_Metric* metric = nullptr;
    Check(TRITONSERVER_MetricNew(&metric, family, raw_.data(), raw_.size()));
    return metric;
  }

 private:
  std::vector<const TRITONSERVER_Parameter*> raw_;
};

}  // namespace

void Metrics::DeleteFamily::operator()(TRITONSERVER_MetricFamily* family) const {
  LogError(TRITONSERVER_MetricFamilyDelete(family), "deleting a metric family");
}

void Metrics::DeleteMetric::operator()(TRITONSERVER_Metric* metric) const {
  LogError(TRITONSERVER_MetricDelete(metric), "deleting a metric");
}

Metrics::Metrics(const Labels& labels) {
  for (const Family& family : Gauges()) AddFamily(TRITONSERVER_METRIC_KIND_GAUGE, family, labels);
  for (const Family& family : Counters()) {
    AddFamily(TRITONSERVER_METRIC_KIND_COUNTER, family, labels);
  }
  for (size_t i = 0; i < kNumHistograms; ++i) AddHistogram(Histograms()[i], i, labels);
  timestamp_.reset(Parameters(labels).NewMetric(
      NewFamily(TRITONSERVER_METRIC_KIND_GAUGE, kTimestampName, kTimestampHelp)));
}

void Metrics::Update(const Reading& reading) {
  for (Shown& shown : shown_) {
    const double value = shown.value(reading);
    if (value == shown.last) continue;
    LogError(shown.kind == TRITONSERVER_METRIC_KIND_COUNTER
                 ? TRITONSERVER_MetricIncrement(shown.metric.get(), value - shown.last)
                 : TRITONSERVER_MetricSet(shown.metric.get(), value),
             "updating a metric");
    shown.last = value;
  }
  LogError(TRITONSERVER_MetricSet(timestamp_.get(), reading.read_at), kTimestampName);
}

void Metrics::AddFamily(TRITONSERVER_MetricKind kind, const Family& family, const Labels& labels) {
  TRITONSERVER_MetricFamily* const raw = NewFamily(kind, family.name, family.help);
  for (const FamilyValue& value : family.values) {
    const Labels own = With(labels, family.label, value.label_value);
    shown_.push_back({Metric(Parameters(own).NewMetric(raw)), kind, value.value});
  }
}

// Larger buckets first: who reads in between never sees less in a larger bucket.
void Metrics::AddHistogram(const HistogramFamily& family, size_t index, const Labels& labels) {
  constexpr TRITONSERVER_MetricKind kKind = TRITONSERVER_METRIC_KIND_COUNTER;
  const Labels own = With(labels, family.label, family.label_value);
  std::vector<std::string> buckets = BucketNames(family);
  buckets.emplace_back("+Inf");
  const auto add = [&](TRITONSERVER_MetricFamily* raw, const Labels& all, auto value) {
    shown_.push_back({Metric(Parameters(all).NewMetric(raw)), kKind, std::move(value)});
  };
  const auto up_to = [index](size_t bucket) {
    return [index, bucket](const Reading& reading) {
      return static_cast<double>(reading.observed.histograms[index].NumUpTo(bucket));
    };
  };
  add(NewFamily(kKind, StrCat(family.name, "_count"), family.help), own, up_to(buckets.size() - 1));
  TRITONSERVER_MetricFamily* const raw =
      NewFamily(kKind, StrCat(family.name, "_bucket"), family.help);
  for (size_t i = buckets.size(); i-- > 0;) add(raw, With(own, "le", buckets[i]), up_to(i));
  add(NewFamily(kKind, StrCat(family.name, "_sum"), family.help), own,
      [index](const Reading& reading) { return reading.observed.histograms[index].sum; });
}

TRITONSERVER_MetricFamily* Metrics::NewFamily(TRITONSERVER_MetricKind kind, const std::string& name,
                                              const char* help) {
  TRITONSERVER_MetricFamily* family = nullptr;
  Check(TRITONSERVER_MetricFamilyNew(&family, kind, name.c_str(), help));
  families_.emplace_back(family);
  return family;
}

}  // namespace enginery::triton
