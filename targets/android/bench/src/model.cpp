#include "model.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cerrno>
#include <cstring>

#include <executorch/extension/threadpool/threadpool.h>
#include <executorch/runtime/core/data_loader.h>
#include <executorch/runtime/core/hierarchical_allocator.h>
#include <executorch/runtime/core/memory_allocator.h>
#include <executorch/runtime/executor/memory_manager.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>

using executorch::runtime::DataLoader;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::HierarchicalAllocator;
using executorch::runtime::MemoryAllocator;
using executorch::runtime::MemoryManager;
using executorch::runtime::Method;
using executorch::runtime::Program;
using executorch::runtime::Result;
using executorch::runtime::Span;
using executorch::aten::DimOrderType;
using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;

namespace {

RunError failed(const std::string& what, Error error) {
  return {"model", what + ": ExecuTorch error " + std::to_string(static_cast<int>(error))};
}

// A file mapped into memory, so that weights are read when they are used.
class MappedFile final : public DataLoader {
 public:
  explicit MappedFile(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat found {};
    if (file < 0 || fstat(file, &found) != 0) {
      throw RunError{"input", path + ": " + std::strerror(errno)};
    }
    size_ = static_cast<size_t>(found.st_size);
    data_ = size_ ? mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    close(file);
    if (data_ == MAP_FAILED) {
      throw RunError{"input", path + " cannot be mapped"};
    }
  }
  ~MappedFile() override { munmap(data_, size_); }

  Result<FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo&) const override {
    if (offset > size_ || size > size_ - offset) {
      return Error::InvalidArgument;
    }
    return FreeableBuffer(static_cast<const uint8_t*>(data_) + offset, size, nullptr);
  }
  Error load_into(size_t offset, size_t size, const SegmentInfo&, void* buffer) const override {
    if (offset > size_ || size > size_ - offset) {
      return Error::InvalidArgument;
    }
    std::memcpy(buffer, static_cast<const uint8_t*>(data_) + offset, size);
    return Error::Ok;
  }
  Result<size_t> size() const override { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Memory from malloc, given back all at once.
class Heap final : public MemoryAllocator {
 public:
  Heap() : MemoryAllocator(0, nullptr) {}
  ~Heap() override { Heap::reset(); }

  void* allocate(size_t size, size_t alignment) override {
    void* found = nullptr;
    if (posix_memalign(&found, alignment < sizeof(void*) ? sizeof(void*) : alignment, size ? size : 1) != 0) {
      return nullptr;
    }
    blocks_.push_back(found);
    return found;
  }
  void reset() override {
    for (void* block : blocks_) {
      free(block);
    }
    blocks_.clear();
  }

 private:
  std::vector<void*> blocks_;
};

}  // namespace

struct Model::Parts {
  Parts(const std::string& path, const std::vector<int32_t>& given)
      : file(path), shape(given.begin(), given.end()), order(given.size()) {
    for (size_t axis = 0; axis < order.size(); ++axis) {
      order[axis] = static_cast<DimOrderType>(axis);
    }
  }

  // In the order they depend on each other.
  MappedFile file;
  std::unique_ptr<Program> program;
  Heap methods, temporary;
  std::vector<std::vector<uint8_t>> planned;
  std::vector<Span<uint8_t>> spans;
  std::unique_ptr<HierarchicalAllocator> plan;
  std::unique_ptr<MemoryManager> memory;
  std::unique_ptr<Method> method;
  std::vector<SizesType> shape;
  std::vector<DimOrderType> order;
};

Model::Model(const std::string& path, const std::vector<int32_t>& shape) {
  executorch::runtime::runtime_init();
  parts_ = std::make_unique<Parts>(path, shape);
  Parts& own = *parts_;
  auto program = Program::load(&own.file);
  if (!program.ok()) {
    throw failed("cannot load the model", program.error());
  }
  own.program = std::make_unique<Program>(std::move(program.get()));
  const auto described = own.program->method_meta("forward");
  if (!described.ok()) {
    throw failed("the model has no method forward", described.error());
  }
  for (size_t index = 0; index < described->num_memory_planned_buffers(); ++index) {
    own.planned.emplace_back(static_cast<size_t>(described->memory_planned_buffer_size(index).get()));
  }
  for (auto& buffer : own.planned) {
    own.spans.emplace_back(buffer.data(), buffer.size());
  }
  own.plan = std::make_unique<HierarchicalAllocator>(Span<Span<uint8_t>>(own.spans.data(), own.spans.size()));
  own.memory = std::make_unique<MemoryManager>(&own.methods, own.plan.get(), &own.temporary);
  auto method = own.program->load_method("forward", own.memory.get());
  if (!method.ok()) {
    throw failed("cannot load the model's method", method.error());
  }
  own.method = std::make_unique<Method>(std::move(method.get()));
}

Model::~Model() = default;

std::vector<float> Model::run(const uint8_t* clip) {
  Parts& own = *parts_;
  TensorImpl input(ScalarType::Byte, static_cast<ssize_t>(own.shape.size()), own.shape.data(),
                   const_cast<uint8_t*>(clip), own.order.data());
  Error error = own.method->set_input(EValue(Tensor(&input)), 0);
  if (error != Error::Ok) {
    throw failed("the model does not take such a clip", error);
  }
  error = own.method->execute();
  own.temporary.reset();
  if (error != Error::Ok) {
    throw failed("the model cannot be run", error);
  }
  const Tensor& logits = own.method->get_output(0).toTensor();
  const auto* values = logits.const_data_ptr<float>();
  return {values, values + logits.numel()};
}

size_t use_threads(size_t count) {
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) {
    return 0;
  }
  if (count != 0 && count != pool->get_thread_count()) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    pool->_unsafe_reset_threadpool(static_cast<uint32_t>(count));  // the only way to more threads than the default
#pragma GCC diagnostic pop
  }
  return pool->get_thread_count();
}
