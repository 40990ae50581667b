// SPDX-License-Identifier: Apache-2.0
#include "metrics.h"

#include "triton_calls.h"

namespace enginery::triton {
namespace {

class Parameters {
 public:
  explicit Parameters(const Metrics::Labels& labels) {
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
  Parameters plain(labels);
  for (const StatGaugeFamily& family : StatGaugeFamilies()) {
    TRITONSERVER_MetricFamily* const raw =
        AddFamily(TRITONSERVER_METRIC_KIND_GAUGE, family.name, family.help);
    for (const StatGauge& gauge : family.gauges) {
      Labels own = labels;
      own.emplace_back(family.label, gauge.label_value);
      gauges_.push_back({&gauge, Metric(Parameters(own).NewMetric(raw))});
    }
  }
  for (const StatCounter& counter : StatCounters()) {
    TRITONSERVER_MetricFamily* const raw =
        AddFamily(TRITONSERVER_METRIC_KIND_COUNTER, counter.name, counter.help);
    counters_.push_back({&counter, Metric(plain.NewMetric(raw))});
  }
  timestamp_.reset(
      plain.NewMetric(AddFamily(TRITONSERVER_METRIC_KIND_GAUGE, kTimestampName, kTimestampHelp)));
}

void Metrics::Update(const enginery_stats& stats, double read_at) {
  for (auto& [counter, metric, last] : counters_) {
    const uint64_t value = counter->value(stats);
    if (value == last) continue;
    LogError(TRITONSERVER_MetricIncrement(metric.get(), static_cast<double>(value - last)),
             counter->name);
    last = value;
  }
  for (auto& [gauge, metric, last] : gauges_) {
    const uint64_t value = gauge->value(stats);
    if (value == last) continue;
    LogError(TRITONSERVER_MetricSet(metric.get(), static_cast<double>(value)), gauge->label_value);
    last = value;
  }
  LogError(TRITONSERVER_MetricSet(timestamp_.get(), read_at), kTimestampName);
}

TRITONSERVER_MetricFamily* Metrics::AddFamily(TRITONSERVER_MetricKind kind, const char* name,
                                              const char* help) {
  TRITONSERVER_MetricFamily* family = nullptr;
  Check(TRITONSERVER_MetricFamilyNew(&family, kind, name, help));
  families_.emplace_back(family);
  return family;
}

}  // namespace enginery::triton
