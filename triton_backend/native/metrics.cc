// SPDX-License-Identifier: Apache-2.0
#include "metrics.h"

#include <map>
#include <mutex>

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

// The metrics of this process, none of which is ever deleted. Triton server 2.51 counts the users
// of a metric in each object of its family, while all objects of one name share the metric: of two
// instances with an object each, the first to end would free what the other one writes to.
class Page {
 public:
  static Page& Get() {
    static Page* const page = new Page;
    return *page;
  }

  TRITONSERVER_Metric* Find(TRITONSERVER_MetricKind kind, const std::string& name, const char* help,
                            const Labels& labels) {
    const std::lock_guard lock(mutex_);
    TRITONSERVER_MetricFamily*& family = families_[name];
    if (family == nullptr) {
      Check(TRITONSERVER_MetricFamilyNew(&family, kind, name.c_str(), help));
    }
    TRITONSERVER_Metric*& metric = metrics_[{name, labels}];
    if (metric == nullptr) metric = Parameters(labels).NewMetric(family);
    return metric;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, TRITONSERVER_MetricFamily*> families_;
  std::map<std::pair<std::string, Labels>, TRITONSERVER_Metric*> metrics_;
};

TRITONSERVER_Metric* FindGauge(const std::string& name, const char* help, const Labels& labels) {
  return Page::Get().Find(TRITONSERVER_METRIC_KIND_GAUGE, name, help, labels);
}

TRITONSERVER_Metric* FindCounter(const std::string& name, const char* help, const Labels& labels) {
  return Page::Get().Find(TRITONSERVER_METRIC_KIND_COUNTER, name, help, labels);
}

void Set(TRITONSERVER_Metric* gauge, double value) {
  LogError(TRITONSERVER_MetricSet(gauge, value), "setting a metric");
}

}  // namespace

Metrics::Metrics(const Labels& labels) {
  for (const Family& family : Gauges()) {
    for (const FamilyValue& value : family.values) {
      const Labels own = With(labels, family.label, value.label_value);
      gauges_.push_back({FindGauge(family.name, family.help, own), value.value});
    }
  }
  for (const Family& family : Counters()) {
    for (const FamilyValue& value : family.values) {
      const Labels own = With(labels, family.label, value.label_value);
      counters_.push_back({FindCounter(family.name, family.help, own), value.value});
    }
  }
  for (size_t i = 0; i < kNumHistograms; ++i) AddHistogram(Histograms()[i], i, labels);
  timestamp_ = FindGauge(kTimestampName, kTimestampHelp, labels);
}

Metrics::~Metrics() {
  for (const Gauge& gauge : gauges_) Set(gauge.metric, 0);
}

void Metrics::Update(const Reading& reading) {
  // Also those that did not change: an instance that ends leaves zeros.
  for (const Gauge& gauge : gauges_) Set(gauge.metric, gauge.value(reading));
  for (Counter& counter : counters_) {
    const double value = counter.value(reading);
    if (value == counter.last) continue;
    LogError(TRITONSERVER_MetricIncrement(counter.metric, value - counter.last),
             "incrementing a metric");
    counter.last = value;
  }
  Set(timestamp_, reading.read_at);
}

// Larger buckets first: who reads in between never sees less in a larger bucket.
void Metrics::AddHistogram(const HistogramFamily& family, size_t index, const Labels& labels) {
  const Labels own = With(labels, family.label, family.label_value);
  const auto add = [&](const char* suffix, const Labels& all, auto value) {
    counters_.push_back(
        {FindCounter(StrCat(family.name, suffix), family.help, all), std::move(value)});
  };
  const auto up_to = [index](size_t bucket) {
    return [index, bucket](const Reading& reading) {
      return static_cast<double>(reading.observed.histograms[index].NumUpTo(bucket));
    };
  };
  std::vector<std::string> buckets = BucketNames(family);
  buckets.emplace_back("+Inf");
  add("_count", own, up_to(buckets.size() - 1));
  for (size_t i = buckets.size(); i-- > 0;) add("_bucket", With(own, "le", buckets[i]), up_to(i));
  add("_sum", own,
      [index](const Reading& reading) { return reading.observed.histograms[index].sum; });
}

}  // namespace enginery::triton
