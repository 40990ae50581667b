// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_METRICS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_METRICS_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "metric_families.h"
#include "triton_api.h"

namespace enginery::triton {

// The metrics of one model instance on Triton server's /metrics; used by one thread at a time.
class Metrics {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  // `labels`: on every metric. Throws Error when the server has no metrics.
  explicit Metrics(const Labels& labels);

  void Update(const Reading& reading);

 private:
  struct DeleteFamily {
    void operator()(TRITONSERVER_MetricFamily* family) const;
  };
  struct DeleteMetric {
    void operator()(TRITONSERVER_Metric* metric) const;
  };
  using Metric = std::unique_ptr<TRITONSERVER_Metric, DeleteMetric>;
  struct Shown {
    Metric metric;
    TRITONSERVER_MetricKind kind;
    std::function<double(const Reading& reading)> value;
    double last = 0;
  };

  void AddFamily(TRITONSERVER_MetricKind kind, const Family& family, const Labels& labels);
  void AddHistogram(const HistogramFamily& family, size_t index, const Labels& labels);
  TRITONSERVER_MetricFamily* NewFamily(TRITONSERVER_MetricKind kind, const std::string& name,
                                       const char* help);

  // Families outlive their metrics, hence first.
  std::vector<std::unique_ptr<TRITONSERVER_MetricFamily, DeleteFamily>> families_;
  std::vector<Shown> shown_;
  Metric timestamp_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_METRICS_H_
