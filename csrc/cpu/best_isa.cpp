// A program for CMake, which prints the largest instruction set that is worth compiling for this machine alone.
#include "best_isa.h"

#include <cstdio>

int main() { std::fputs(bdam::best_isa(), stdout); }
