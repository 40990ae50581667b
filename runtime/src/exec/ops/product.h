// SPDX-License-Identifier: Apache-2.0
//
// A product with a packed weight, and how it is cut into tasks: what the ops `linear` and `linear`
// with `silu_mul` share.
#ifndef ENGINERY_SRC_EXEC_OPS_PRODUCT_H_
#define ENGINERY_SRC_EXEC_OPS_PRODUCT_H_

#include "exec/op_work.h"
#include "exec/plan.h"

namespace enginery {

// One task of a product: a block of rows by panels that follow each other.
struct ProductTask {
  int64_t row, num_rows, panel_begin, panel_end;
  int64_t next_panel;  // of the thread's next task; -1 where this is its last
  int64_t prepared;    // the thread that comes from a task of the same rows; -1: none
};

// Operands and kernel of a product whose checks have passed.
struct Product {
  ValueOperand x;
  LinearArgs args;  // what does not change from step to step
  LinearKernel Kernels::* kernel;
  LinearKernel Kernels::* gated_kernel;  // null: none in any table
  int64_t panel_bytes;
  int64_t num_task_panels;  // what is cut into tasks: all panels, or those of the gates
  int64_t scratch_bytes;    // that the kernels take of the thread's
  ProductWork work;
  const Product* next = nullptr;  // the product that the program, or its next run, comes to next

  // The arguments for the rows and panels of a task; y is left to the caller.
  LinearArgs ForTask(const StepContext& context, const ProductTask& task, int thread) const;
  const std::byte* panel(int64_t p) const {
    return static_cast<const std::byte*>(args.weight) + p * panel_bytes;
  }
};

// Checks the operands of a `linear` of version 1 or 2 and finds its kernel. Throws Error.
Product PrepareProduct(const StepReader& step, PlanBuilder& plan);

// Cuts rows by panels into tasks. Few rows are not cut: each thread streams its own weights. Many
// are: each thread has its own rows (ThreadPool gives it consecutive tasks), which stay in its
// cache from op to op, and all threads read all weights. Panels are cut into chunks, so that none
// waits long for a slow one, and long enough for the kernel to fetch ahead. None of this changes a
// result.
class ProductTasks {
 public:
  static constexpr int64_t kMaxRows = 512;  // of a task

  ProductTasks(const StepContext& context, const Product& product);
  int64_t count() const { return num_row_blocks_ * num_chunks_; }
  ProductTask operator[](int64_t task) const;
  // The first that the thread is given.
  int64_t first_of(int64_t thread) const { return count() * thread / num_threads_; }

 private:
  int64_t panel_begin(int64_t task) const {
    return num_groups_ * (task % num_chunks_) / num_chunks_ * panels_per_group_;
  }

  int64_t num_threads_, num_rows_, num_panels_;
  int64_t panels_per_group_;  // a task has whole groups of them
  int64_t rows_per_block_, num_row_blocks_, num_groups_, num_chunks_;
};

}  // namespace enginery

#endif  // ENGINERY_SRC_EXEC_OPS_PRODUCT_H_
