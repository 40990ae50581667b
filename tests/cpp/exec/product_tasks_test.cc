// SPDX-License-Identifier: Apache-2.0
#include <deque>
#include <vector>

#include "check.h"
#include "exec/ops/product.h"
#include "support/test_model.h"

namespace enginery::test {
namespace {

// What a step is to the products of a plan: sizes; nothing is computed.
class AStep {
 public:
  AStep(const Plan& plan, int num_threads, int64_t num_tokens, int64_t num_logit_rows)
      : pool_(num_threads) {
    batch_.num_tokens = num_tokens;
    batch_.num_logit_rows = num_logit_rows;
    constexpr int64_t kMostRows = 2048;
    for (const BufferSpec& buffer : plan.buffers) {
      const int64_t pitch = buffer.columns * 4;
      storage_.emplace_back(static_cast<size_t>(kMostRows * pitch));
      values_.push_back({storage_.back().data(), pitch, nullptr});
    }
  }
  StepContext context() {
    return {*FindKernels("auto"), pool_, batch_, kv_, {}, values_, scratch_, 0};
  }

 private:
  ThreadPool pool_;
  BatchView batch_{};
  KvView kv_{};
  std::deque<std::vector<std::byte>> storage_;
  std::vector<Matrix> values_;
  std::byte scratch_[64];
};

Plan PlanOf(TestModel& model) { return PlanBuilder(model.program(0), 1).Build(); }

TEST(each_panel_of_each_row_is_in_one_task_and_threads_know_their_next) {
  TestModel model({.num_layers = 1});
  const Plan plan = PlanOf(model);
  Product product = *plan.products().front();
  for (const int num_threads : {1, 2, 3}) {
    for (const int64_t num_rows : {1, 8, 9, 143, 256, 700, 2048}) {
      AStep step(plan, num_threads, num_rows, 0);
      const StepContext context = step.context();
      for (const int64_t num_panels : {1, 4, 7, 56, 72, 353}) {
        product.num_task_panels = num_panels;
        const ProductTasks tasks(context, product);
        std::vector<int> seen(static_cast<size_t>(num_rows * num_panels));
        for (int thread = 0; thread < num_threads; ++thread) {
          const int64_t end = tasks.first_of(thread + 1);
          for (int64_t i = tasks.first_of(thread); i < end; ++i) {
            const ProductTask task = tasks[i];
            for (int64_t r = task.row; r < task.row + task.num_rows; ++r) {
              for (int64_t p = task.panel_begin; p < task.panel_end; ++p) {
                ++seen[static_cast<size_t>(r * num_panels + p)];
              }
            }
            CHECK_EQ(task.next_panel, i + 1 < end ? tasks[i + 1].panel_begin : -1);
            const bool is_prepared = i > tasks.first_of(thread) && tasks[i - 1].row == task.row;
            CHECK_EQ(task.prepared, is_prepared ? thread : -1);
          }
        }
        for (const int count : seen) REQUIRE_EQ(count, 1);
      }
    }
  }
}

TEST(products_know_the_one_after_them_and_the_last_one_the_first) {
  TestModel model({});
  const Plan plan = PlanOf(model);
  const std::vector<Product*> products = plan.products();
  REQUIRE_EQ(products.size(), 2 * 4 + 1);
  for (size_t i = 0; i < products.size(); ++i) {
    CHECK(products[i]->next == products[(i + 1) % products.size()]);
  }
}

TEST(after_its_last_task_a_thread_fetches_its_first_of_the_next_product) {
  TestModel model({.num_layers = 1});
  const Plan plan = PlanOf(model);
  const std::vector<Product*> products = plan.products();
  Product now = *products[0];
  Product after = *products[1];
  now.next = &after;
  now.num_task_panels = after.num_task_panels = 72;
  AStep step(plan, 2, 16, 0);
  const StepContext context = step.context();
  const ProductTasks tasks(context, now);
  const ProductTasks tasks_after(context, after);
  CHECK(tasks_after.count() >= 2);
  for (const int thread : {0, 1}) {
    const int64_t last = tasks.first_of(thread + 1) - 1;
    const ProductTask first = tasks_after[tasks_after.first_of(thread)];
    CHECK(now.ForTask(context, tasks[last], thread).next == after.panel(first.panel_begin));
    if (last > 0 && tasks[last - 1].next_panel >= 0) {
      CHECK(now.ForTask(context, tasks[last - 1], thread).next ==
            now.panel(tasks[last].panel_begin));
    }
  }
  // What it prepared is of use to itself alone.
  const int64_t second = tasks.first_of(1) + 1;
  CHECK(second < tasks.count());
  CHECK(now.ForTask(context, tasks[second], 1).is_prepared);
  CHECK(!now.ForTask(context, tasks[second], 0).is_prepared);
  CHECK(!now.ForTask(context, tasks[second - 1], 1).is_prepared);
  // Nobody wants logits: there is nothing to multiply then.
  now.next = products.back();
  CHECK(now.ForTask(context, tasks[tasks.count() - 1], 0).next == nullptr);
}

}  // namespace
}  // namespace enginery::test
