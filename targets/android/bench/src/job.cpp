#include "job.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>

#include "model.h"

namespace {

RunError of_errno(const std::string& path) {
  const int error = errno;
  return {error == ENOSPC || error == EDQUOT ? "disk_full" : "storage", path + ": " + std::strerror(error)};
}

double number(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || value < 0) {
    throw RunError{"usage", "not a number: " + text};
  }
  return value;
}

size_t whole(const std::string& text) { return static_cast<size_t>(number(text)); }

std::string number_of(double value) {
  if (std::isnan(value)) {
    return "NaN";  // as Python's json reads it
  }
  if (std::isinf(value)) {
    return value > 0 ? "Infinity" : "-Infinity";
  }
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

}  // namespace

size_t Job::clip_bytes() const {
  size_t bytes = 1;
  for (const int32_t extent : shape) {
    bytes *= static_cast<size_t>(extent);
  }
  return bytes;
}

size_t Job::count() const {
  size_t total = 0;
  for (const auto& pack : clips) {
    total += pack.second;
  }
  return total;
}

Job parse(int count, char** words) {
  Job job;
  int protocol = -1;
  const std::map<std::string, std::function<void(const std::string&)>> takes = {
      {"--protocol", [&](const std::string& text) { protocol = static_cast<int>(number(text)); }},
      {"--model", [&](const std::string& text) { job.model = text; }},
      {"--out", [&](const std::string& text) { job.out = text; }},
      {"--run", [&](const std::string& text) { job.run = text; }},
      {"--classes", [&](const std::string& text) { job.classes = whole(text); }},
      {"--threads", [&](const std::string& text) { job.threads = whole(text); }},
      {"--warmup", [&](const std::string& text) { job.warmup = whole(text); }},
      {"--runs", [&](const std::string& text) { job.runs = whole(text); }},
      {"--min-runs", [&](const std::string& text) { job.min_runs = whole(text); }},
      {"--budget-s", [&](const std::string& text) { job.budget_s = number(text); }},
      {"--sustained-s", [&](const std::string& text) { job.sustained_s = number(text); }},
      {"--shape",
       [&](const std::string& text) {
         std::istringstream parts(text);
         for (std::string part; std::getline(parts, part, ',');) {
           job.shape.push_back(static_cast<int32_t>(number(part)));
         }
       }},
      {"--clips",
       [&](const std::string& text) {
         const size_t at = text.rfind('=');
         if (at == std::string::npos) {
           throw RunError{"usage", "--clips takes FILE=COUNT"};
         }
         job.clips.emplace_back(text.substr(0, at), whole(text.substr(at + 1)));
       }},
  };
  std::string unknown;
  for (int at = 1; at < count; ++at) {
    const std::string word = words[at];
    const auto taken = takes.find(word);
    if (word == "--resume") {
      job.resume = true;
    } else if (word == "--watch-stdin") {
      job.watch_stdin = true;
    } else if (taken != takes.end() && at + 1 < count) {
      taken->second(words[++at]);
    } else if (unknown.empty()) {
      unknown = word;
    }
  }
  if (protocol != kProtocol) {  // first: another protocol may have other words
    throw RunError{"protocol", "this runner speaks protocol " + std::to_string(kProtocol) + ", not " +
                                   (protocol < 0 ? std::string("an unnamed one") : std::to_string(protocol))};
  }
  if (!unknown.empty() || job.model.empty() || job.out.empty() || job.shape.size() != 4 || job.count() == 0) {
    throw RunError{"usage", unknown.empty() ? "--model, --out, --shape T,H,W,C and --clips are needed"
                                            : "unknown argument " + unknown};
  }
  return job;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char character : text) {
    if (character == '"' || character == '\\') {
      out += '\\';
    }
    out += static_cast<unsigned char>(character) < ' ' ? ' ' : character;
  }
  return out + '"';
}

std::string list_of(const std::vector<double>& values) {
  std::string out = "[";
  for (const double value : values) {
    out += (out.size() > 1 ? ", " : "") + number_of(value);
  }
  return out + "]";
}

void say(const std::string& name, const std::string& rest) {
  std::printf("{\"event\": \"%s\"%s%s}\n", name.c_str(), rest.empty() ? "" : ", ", rest.c_str());
  std::fflush(stdout);
}

std::vector<uint8_t> read_pack(const std::string& path, size_t bytes) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto found = static_cast<size_t>(file ? static_cast<long long>(file.tellg()) : 0);
  if (found != bytes) {
    throw RunError{"input", path + " has " + std::to_string(found) + " bytes, " + std::to_string(bytes) + " are expected"};
  }
  std::vector<uint8_t> clips(bytes);
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(clips.data()), static_cast<std::streamsize>(bytes))) {
    throw RunError{"input", path + " cannot be read"};
  }
  return clips;
}

void write_whole(const std::string& path, const std::string& text) {
  const std::string partial = path + ".partial";
  FILE* file = std::fopen(partial.c_str(), "w");
  if (file == nullptr) {
    throw of_errno(partial);
  }
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size() && std::fflush(file) == 0;
  const RunError error = written ? RunError{} : of_errno(partial);
  std::fclose(file);
  if (!written || std::rename(partial.c_str(), path.c_str()) != 0) {
    throw written ? of_errno(path) : error;
  }
}

void own_folder(const std::string& folder, const std::string& run) {
  for (size_t at = 1; at <= folder.size(); ++at) {
    if ((at == folder.size() || folder[at] == '/') && mkdir(folder.substr(0, at).c_str(), 0700) != 0 && errno != EEXIST) {
      throw of_errno(folder);
    }
  }
  // Of the whole device, and held until the end: two runs at once would spoil each other's times.
  const int lock = open("lock", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (lock < 0) {
    throw of_errno("lock");
  }
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    throw RunError{"busy", "another run is going on on this device"};
  }
  if (getpgrp() != getpid()) {
    setpgid(0, 0);
  }
  write_whole(folder + "/pid", std::to_string(getpid()));
  write_whole(folder + "/run", run);
}

Results::Results(const std::string& folder, const std::string& runtime, bool resume)
    : path_(folder + "/results.jsonl") {
  const std::string head = "{\"runtime\": " + quoted(runtime) + "}";
  std::vector<std::string> lines;
  off_t kept = 0;
  if (resume) {
    std::ifstream file(path_);
    for (std::string line; std::getline(file, line) && !file.eof();) {  // a torn last line has no end
      lines.push_back(line);
      kept += static_cast<off_t>(line.size()) + 1;
    }
  }
  const bool same = !lines.empty() && lines.front() == head;
  if (same && truncate(path_.c_str(), kept) != 0) {
    throw of_errno(path_);
  }
  if (!same) {
    // Answers of another version of the runtime are not mixed with these, and neither are its times.
    unlink((folder + "/samples.json").c_str());
  }
  for (size_t at = 1; same && at < lines.size(); ++at) {
    size_t place = 0;
    if (std::sscanf(lines[at].c_str(), "{\"clip\": %zu,", &place) == 1) {
      done_.insert(place);
    }
  }
  file_ = std::fopen(path_.c_str(), same ? "a" : "w");
  if (file_ == nullptr) {
    throw of_errno(path_);
  }
  if (!same) {
    write(head);
  }
}

Results::~Results() {
  if (file_ != nullptr) {
    std::fclose(file_);
  }
}

void Results::add(size_t place, const std::vector<float>& logits) {
  write("{\"clip\": " + std::to_string(place) + ", \"logits\": " + list_of({logits.begin(), logits.end()}) + "}");
  done_.insert(place);
}

void Results::write(const std::string& line) {
  if (std::fputs((line + "\n").c_str(), file_) < 0 || std::fflush(file_) != 0) {
    throw of_errno(path_);
  }
}

void Results::sync() { fsync(fileno(file_)); }
