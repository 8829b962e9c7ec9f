// One run as the protocol describes it (docs/devices.md): command line, events, clips, and results clip by clip.
#pragma once

#include <cstdint>
#include <cstdio>
#include <set>
#include <string>
#include <utility>
#include <vector>

constexpr int kProtocol = 1;

struct Job {
  std::string model, out, run;
  std::vector<int32_t> shape;
  size_t classes = 0, threads = 0, warmup = 5, runs = 50, min_runs = 10;
  double budget_s = 3, sustained_s = 0;
  bool resume = false, watch_stdin = false;
  std::vector<std::pair<std::string, size_t>> clips;  // file and its number of clips

  size_t clip_bytes() const;
  size_t count() const;
};

// Throws RunError where the caller speaks another protocol, or an argument is wrong.
Job parse(int count, char** words);

// A JSON string.
std::string quoted(const std::string& text);
// A JSON list; nine digits keep every bit of a float.
std::string list_of(const std::vector<double>& values);

// One line of JSON for the host: {"event": NAME, REST}.
void say(const std::string& name, const std::string& rest = "");

// All bytes of a pack of clips. Throws RunError where they are not `bytes`.
std::vector<uint8_t> read_pack(const std::string& path, size_t bytes);

// Throws RunError, with the protocol's kind for a full disk.
void write_whole(const std::string& path, const std::string& text);

// Takes the folder for this process and says in it which process group to end, and whose it is. Throws RunError if
// another has it.
void own_folder(const std::string& folder, const std::string& run);

class Results {
 public:
  Results(const std::string& folder, const std::string& runtime, bool resume);
  ~Results();
  Results(const Results&) = delete;
  Results& operator=(const Results&) = delete;

  void add(size_t place, const std::vector<float>& logits);
  bool has(size_t place) const { return done_.count(place) != 0; }
  size_t done() const { return done_.size(); }
  void sync();

 private:
  void write(const std::string& line);

  std::string path_;
  std::set<size_t> done_;
  FILE* file_ = nullptr;
};
