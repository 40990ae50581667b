// SPDX-License-Identifier: Apache-2.0
#ifndef ENGINERY_TRITON_BACKEND_NATIVE_METRICS_H_
#define ENGINERY_TRITON_BACKEND_NATIVE_METRICS_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "enginery/enginery.h"
#include "stat_table.h"
#include "triton_api.h"

namespace enginery::triton {

// The metrics of one model instance on Triton server's /metrics; used by one thread at a time.
class Metrics {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  // `labels`: on every metric. Throws Error when the server has no metrics.
  explicit Metrics(const Labels& labels);

  // `read_at`: Unix seconds, taken before the statistics.
  void Update(const enginery_stats& stats, double read_at);

 private:
  struct DeleteFamily {
    void operator()(TRITONSERVER_MetricFamily* family) const;
  };
  struct DeleteMetric {
    void operator()(TRITONSERVER_Metric* metric) const;
  };
  using Metric = std::unique_ptr<TRITONSERVER_Metric, DeleteMetric>;
  template <class Stat>
  struct Shown {
    const Stat* stat;
    Metric metric;
    uint64_t last = 0;
  };

  TRITONSERVER_MetricFamily* AddFamily(TRITONSERVER_MetricKind kind, const char* name,
                                       const char* help);

  // Families outlive their metrics, hence first.
  std::vector<std::unique_ptr<TRITONSERVER_MetricFamily, DeleteFamily>> families_;
  std::vector<Shown<StatCounter>> counters_;
  std::vector<Shown<StatGauge>> gauges_;
  Metric timestamp_;
};

}  // namespace enginery::triton

#endif  // ENGINERY_TRITON_BACKEND_NATIVE_METRICS_H_
