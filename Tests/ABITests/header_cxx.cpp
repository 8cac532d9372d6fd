// The headers are C++ as well, and the functions have C names there: with C++ names this would not link.
#include <ccoip.h>
#include <ccoip_inet.h>
#include <pccl.h>
#include <pccl_ext.h>

#include <cstdio>
#include <type_traits>

static_assert(std::is_standard_layout<pcclReduceDescriptor_t>::value, "shared with C");
static_assert(std::is_trivially_copyable<ccoip_socket_address_t>::value, "passed by value");
static_assert(sizeof(pcclReduceOpDescriptor_t) == 56, "as in C");
static_assert(sizeof(pcclReducePart_t) == 24, "as in C");
static_assert(sizeof(pcclBuildInfo_t) == 1, "bool has one byte here too");
static_assert(sizeof(pcclResult_t) == 4, "enums have four bytes here too");

#define FUNCTION(name, parameters) static pcclResult_t(*volatile at_##name) parameters = name;
#include "functions.h"
#undef FUNCTION

int main() {
    int missing = 0;
#define FUNCTION(name, parameters) missing += at_##name == nullptr ? 1 : 0;
#include "functions.h"
#undef FUNCTION
    std::printf("header_cxx: %d functions missing\n", missing);
    return missing == 0 ? 0 : 1;
}
