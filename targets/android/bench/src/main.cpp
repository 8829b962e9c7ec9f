// Runs a .pte file on clips for d3d-edge: logits and raw times out. Statistics are the host's.

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <thread>

#include "board.h"
#include "job.h"
#include "model.h"

#ifndef EXECUTORCH_VERSION
#define EXECUTORCH_VERSION "of unknown version"
#endif

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

#ifdef __ANDROID__
constexpr bool kNative = true;
#else
constexpr bool kNative = false;  // a computer's processor is not the target's
#endif

// Says at times that work goes on, between two runs of the model and never in one.
class Pulse {
 public:
  template <typename Say>
  void at_times(double seconds, Say say_it) {
    if (seconds_since(said_) > seconds) {
      say_it();
      said_ = Clock::now();
    }
  }

 private:
  Clock::time_point said_ = Clock::now();
};

// The samples of the protocol, as JSON.
std::string measure(Model& model, const uint8_t* clip, const Job& job, double load_ms, size_t threads,
                    const std::string& before, long long memory_before) {
  Pulse pulse;
  const auto timed = [&] {
    const auto begin = Clock::now();
    model.run(clip);
    const double taken = 1e3 * seconds_since(begin);
    pulse.at_times(1, [] { say("alive"); });
    return taken;
  };
  const double first = timed();
  std::vector<double> warmup, times, at, sustained;
  for (size_t run = 0; run < job.warmup; ++run) {
    warmup.push_back(timed());
  }
  for (const auto begin = Clock::now(); times.size() < job.runs;) {
    if (times.size() >= job.min_runs && seconds_since(begin) > job.budget_s) {
      break;
    }
    times.push_back(timed());
  }
  for (const auto begin = Clock::now(); job.sustained_s > 0 && seconds_since(begin) < job.sustained_s;) {
    at.push_back(seconds_since(begin));
    sustained.push_back(timed());
  }
  const long long memory = memory_bytes() - memory_before;
  const std::string steady = "{\"at_s\": " + list_of(at) + ", \"network_ms\": " + list_of(sustained) + "}";
#ifdef NDEBUG
  const char* build = "release";
#else
  const char* build = "debug";
#endif
  return "{\"load_ms\": " + std::to_string(load_ms) + ", \"first_ms\": " + std::to_string(first) +
         ", \"warmup_ms\": " + list_of(warmup) + ", \"network_ms\": " + list_of(times) +
         ", \"sustained\": " + (at.empty() ? "null" : steady) +
         ", \"memory_peak_bytes\": " + (memory > 0 ? std::to_string(memory) : "null") +
         ", \"threads\": " + std::to_string(threads) + ", \"build\": \"" + build +
         "\", \"environment_before\": " + before + ", \"environment_after\": " + state() + "}\n";
}

void run(const Job& job) {
  const std::string runtime = "executorch " EXECUTORCH_VERSION " (XNNPACK)";
  say("hello", "\"protocol\": " + std::to_string(kProtocol) + ", \"runtime\": " + quoted(runtime) +
                   ", \"native\": " + (kNative ? "true" : "false") + ", \"device\": " + quoted(describe()));
  Results results(job.out, runtime, job.resume);
  const std::string samples = job.out + "/samples.json";
  // The host tells of old times by old clips.
  const bool timed = results.done() > 0 && access(samples.c_str(), F_OK) == 0;
  const size_t total = job.count();
  const auto count = [&] {
    say("clips", "\"done\": " + std::to_string(results.done()) + ", \"total\": " + std::to_string(total));
  };
  count();
  if (timed && results.done() == total) {
    return;
  }
  const std::string before = state();
  const long long memory = memory_bytes();
  const size_t threads = use_threads(job.threads);
  const auto begin = Clock::now();
  Model model(job.model, job.shape);
  const double load_ms = 1e3 * seconds_since(begin);
  say("alive");
  Pulse pulse;
  size_t place = 0;
  for (const auto& pack : job.clips) {
    const auto clips = read_pack(pack.first, pack.second * job.clip_bytes());
    if (place == 0 && !timed) {
      write_whole(samples, measure(model, clips.data(), job, load_ms, threads, before, memory));
    }
    for (size_t clip = 0; clip < pack.second; ++clip, ++place) {
      if (results.has(place)) {
        continue;
      }
      const auto logits = model.run(clips.data() + clip * job.clip_bytes());
      if (logits.size() != job.classes) {
        throw RunError{"model", "the model gives " + std::to_string(logits.size()) + " logits, not " +
                                    std::to_string(job.classes)};
      }
      results.add(place, logits);
      pulse.at_times(0.2, count);
    }
  }
  results.sync();
  count();
}

}  // namespace

int main(int word_count, char** words) {
  try {
    const Job job = parse(word_count, words);
    if (job.watch_stdin) {
      // The host holds standard input open. When it dies or the connection does, nobody waits for results.
      std::thread([] {
        char ignored[512];
        while (read(STDIN_FILENO, ignored, sizeof ignored) > 0) {
        }
        _exit(3);
      }).detach();
    }
    own_folder(job.out, job.run);
    const auto remove_pid = [&job] { unlink((job.out + "/pid").c_str()); };
    try {
      run(job);
    } catch (...) {
      remove_pid();
      throw;
    }
    remove_pid();
  } catch (const RunError& error) {
    say("error", "\"kind\": " + quoted(error.kind) + ", \"message\": " + quoted(error.message));
    return 1;
  } catch (const std::bad_alloc&) {
    say("error", "\"kind\": \"memory\", \"message\": \"not enough memory\"");
    return 1;
  }
  say("done");
  std::fflush(stdout);
  _exit(0);  // the thread that reads standard input still waits
}
