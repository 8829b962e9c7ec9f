// A loaded .pte file. Knows nothing of clips beyond their bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// What is told to the host as an event, and ends the run. `kind` is one of the protocol's.
struct RunError {
  std::string kind;
  std::string message;
};

class Model {
 public:
  // Loads the file and its method "forward". `shape` is [T, H, W, C]. Throws RunError.
  Model(const std::string& path, const std::vector<int32_t>& shape);
  ~Model();

  // Logits of a clip uint8 [T, H, W, C]. Throws RunError.
  std::vector<float> run(const uint8_t* clip);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// ExecuTorch has one thread pool; 0 leaves its own choice. Returns its number of threads.
size_t use_threads(size_t count);
