# find_package(pccl) gives the target pccl::pccl: the library, and the headers of C and C++ (pccl.hpp wants C++17).
# The prefix is found from where this file lies, so an installed tree may be moved as a whole.
if(NOT TARGET pccl::pccl)
    get_filename_component(_pccl_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
    foreach(_pccl_file lib/libpccl.so include/pccl.h)
        if(NOT EXISTS "${_pccl_prefix}/${_pccl_file}")
            set(pccl_FOUND FALSE)
            set(pccl_NOT_FOUND_MESSAGE "${_pccl_prefix} has no ${_pccl_file}; install the library again")
            return()
        endif()
    endforeach()
    add_library(pccl::pccl SHARED IMPORTED)
    set_target_properties(pccl::pccl PROPERTIES
        IMPORTED_LOCATION "${_pccl_prefix}/lib/libpccl.so"
        IMPORTED_SONAME libpccl.so
        INTERFACE_INCLUDE_DIRECTORIES "${_pccl_prefix}/include")
    unset(_pccl_prefix)
    unset(_pccl_file)
endif()
