// What the phone is, and the state it is in: heat, battery, clocks, memory. Changes nothing.
#pragma once

#include <string>

// Maker, model, system and chip.
std::string describe();

// A JSON object with what the phone says now; what it does not say to adb's user is left out.
std::string state();

// Proportional set size of this process; 0 where the system does not say.
long long memory_bytes();
