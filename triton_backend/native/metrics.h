// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_METRICS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_METRICS_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "metric_families.h"
#include "triton_api.h"

namespace enginery::triton {

// The metrics of one model instance on Triton server's /metrics; used by one thread at a time.
// Instances with the same labels, one of which is being unloaded while the other serves, have the
// same metrics: counters add both up, gauges are those of who was there last.
class Metrics {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  // `labels`: on every metric. Throws Error when the server has no metrics.
  explicit Metrics(const Labels& labels);
  // They stay on the page: gauges with 0, but for the timestamp, counters as they are.
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void Update(const Reading& reading);

 private:
  struct Gauge {
    TRITONSERVER_Metric* metric;
    std::function<double(const Reading& reading)> value;
  };
  struct Counter {
    TRITONSERVER_Metric* metric;
    std::function<double(const Reading& reading)> value;
    double last = 0;  // of this instance
  };

  void AddHistogram(const HistogramFamily& family, size_t index, const Labels& labels);

  std::vector<Gauge> gauges_;
  std::vector<Counter> counters_;
  TRITONSERVER_Metric* timestamp_ = nullptr;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_METRICS_H_
