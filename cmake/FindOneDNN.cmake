# OneDNN::OneDNN, dense products of matrices. Its own CMake package is not in every distribution's.
#
# oneDNN plans for as many threads as its OpenMP would start, and is told to plan for one; so the program must use the
# same OpenMP, which for distributions' oneDNN is GCC's. With another compiler it counts as not found.
find_path(OneDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
find_library(OneDNN_LIBRARY dnnl)
find_package(OpenMP QUIET COMPONENTS CXX)
set(OneDNN_shares_openmp OFF)
if(OpenMP_CXX_FOUND AND "gomp" IN_LIST OpenMP_CXX_LIB_NAMES)
  set(OneDNN_shares_openmp ON)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OneDNN REQUIRED_VARS OneDNN_LIBRARY OneDNN_INCLUDE_DIR OneDNN_shares_openmp)
if(OneDNN_FOUND AND NOT TARGET OneDNN::OneDNN)
  add_library(OneDNN::OneDNN UNKNOWN IMPORTED)
  set_target_properties(OneDNN::OneDNN PROPERTIES IMPORTED_LOCATION "${OneDNN_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${OneDNN_INCLUDE_DIR}"
    INTERFACE_COMPILE_DEFINITIONS PALIMPSEST_HAS_ONEDNN=1 INTERFACE_LINK_LIBRARIES OpenMP::OpenMP_CXX)
endif()
