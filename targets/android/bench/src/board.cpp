#include "board.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <vector>

#ifdef __ANDROID__
#include <sys/system_properties.h>
#endif

#include "job.h"

#ifndef D3D_EDGE_DUMPSYS
#define D3D_EDGE_DUMPSYS "/system/bin/dumpsys"
#endif

namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The rest of the first line that begins with `key`, after spaces; empty where there is none.
std::string after(std::istream& lines, const std::string& key) {
  for (std::string line; std::getline(lines, line);) {
    const size_t begin = line.find_first_not_of(" \t");
    if (begin != std::string::npos && line.compare(begin, key.size(), key) == 0) {
      const size_t value = line.find_first_not_of(" \t", begin + key.size());
      return value == std::string::npos ? "" : line.substr(value);
    }
  }
  return "";
}

// What a service of Android says about itself.
std::string dump_of(const std::string& service) {
  std::string said;
  if (access(D3D_EDGE_DUMPSYS, X_OK) != 0) {
    return said;
  }
  FILE* pipe = popen((D3D_EDGE_DUMPSYS " " + service + " </dev/null 2>/dev/null").c_str(), "r");
  char part[512];
  while (pipe != nullptr && std::fgets(part, sizeof part, pipe) != nullptr) {
    said += part;
  }
  if (pipe != nullptr) {
    pclose(pipe);
  }
  return said;
}

std::string value_in(const std::string& dump, const std::string& key) {
  std::string found;
  size_t begin = 0;
  while (begin < dump.size() && found.empty()) {
    const size_t end = std::min(dump.find('\n', begin), dump.size());
    const std::string line = dump.substr(begin, end - begin);
    const size_t at = line.find(key);
    if (at != std::string::npos && line.find_first_not_of(" \t") == at) {
      const size_t value = line.find_first_not_of(" \t\r", at + key.size());
      found = value == std::string::npos ? "" : line.substr(value, line.find_last_not_of(" \t\r") + 1 - value);
    }
    begin = end + 1;
  }
  return found;
}

// No reading is larger, and the host takes none that is.
constexpr double kMost = 1e9;

// The number that a text begins with; none, or one that is no reading, is NAN, and is left out of what is told.
double number_in(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  return end == text.c_str() || !(std::abs(number) <= kMost) ? NAN : number;
}

#ifdef __ANDROID__
std::string property(const char* name) {
  char value[PROP_VALUE_MAX] = "";
  __system_property_get(name, value);
  return value;
}
#endif

}  // namespace

std::string describe() {
#ifdef __ANDROID__
  return property("ro.product.manufacturer") + " " + property("ro.product.model") + " (Android " +
         property("ro.build.version.release") + ", " + property("ro.soc.model") + ", " +
         property("ro.product.cpu.abi") + ")";
#else
  utsname name{};
  uname(&name);
  return std::string(name.nodename) + " (" + name.sysname + ", " + name.machine + ")";
#endif
}

std::string state() {
  std::string out;
  const auto add = [&out](const std::string& name, const std::string& value) {
    if (!value.empty() && value != "[]" && value != "{}") {
      out += (out.empty() ? "\"" : ", \"") + name + "\": " + value;
    }
  };
  const auto add_number = [&add](const std::string& name, double number) {
    add(name, std::isnan(number) ? "" : std::to_string(number));
  };
  char now[32];
  const std::time_t seconds = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  std::strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%S+00:00", &utc);
  add("time", quoted(now));
  add_number("load_average", number_in(first_line("/proc/loadavg")));
  const std::string cpus = "/sys/devices/system/cpu/cpu";
  const std::string governor = first_line(cpus + "0/cpufreq/scaling_governor");
  add("governor", governor.empty() ? "" : quoted(governor));
  std::vector<double> clocks;
  for (int cpu = 0; access((cpus + std::to_string(cpu)).c_str(), F_OK) == 0; ++cpu) {
    const double khz = number_in(first_line(cpus + std::to_string(cpu) + "/cpufreq/scaling_cur_freq"));
    if (!std::isnan(khz)) {
      clocks.push_back(khz / 1e3);
    }
  }
  add("clock_mhz", list_of(clocks));
  std::ifstream memory("/proc/meminfo");
  const std::string available = after(memory, "MemAvailable:");
  add("memory_available_bytes", available.empty() ? "" : std::to_string(std::atoll(available.c_str()) * 1024));
  std::string heat;
  const auto degrees = [&heat](const std::string& name, double celsius) {
    if (!name.empty() && !std::isnan(celsius)) {
      heat += (heat.empty() ? "" : ", ") + quoted(name) + ": " + std::to_string(celsius);
    }
  };
  const std::string zones = "/sys/class/thermal/thermal_zone";
  for (int zone = 0; access((zones + std::to_string(zone)).c_str(), F_OK) == 0; ++zone) {
    const std::string place = zones + std::to_string(zone);
    degrees(first_line(place + "/type"), number_in(first_line(place + "/temp")) / 1e3);
  }
  const std::string battery = dump_of("battery");
  degrees("battery", number_in(value_in(battery, "temperature:")) / 10);
  add_number("battery_percent", number_in(value_in(battery, "level:")));
  std::string charging;
  for (const char* source : {"AC powered:", "USB powered:", "Wireless powered:", "Dock powered:"}) {
    const std::string powered = value_in(battery, source);
    if (charging != "true" && (powered == "true" || powered == "false")) {
      charging = powered;
    }
  }
  add("charging", charging);
  add("temperature_c", "{" + heat + "}");
  const std::string throttling = value_in(dump_of("thermalservice"), "Thermal Status:");
  add("thermal_status", throttling.empty() ? "" : quoted(throttling));
  return "{" + out + "}";
}

long long memory_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  return std::atoll(after(file, "Pss:").c_str()) * 1024;
}
