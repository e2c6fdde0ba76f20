# OneDNN::OneDNN, dense products of matrices. Its own CMake package is not in every distribution's.
find_path(OneDNN_INCLUDE_DIR oneapi/dnnl/dnnl.hpp)
find_library(OneDNN_LIBRARY dnnl)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OneDNN REQUIRED_VARS OneDNN_LIBRARY OneDNN_INCLUDE_DIR)
if(OneDNN_FOUND AND NOT TARGET OneDNN::OneDNN)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  add_library(OneDNN::OneDNN UNKNOWN IMPORTED)
  set_target_properties(OneDNN::OneDNN PROPERTIES IMPORTED_LOCATION "${OneDNN_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${OneDNN_INCLUDE_DIR}"
    INTERFACE_COMPILE_DEFINITIONS PALIMPSEST_HAS_ONEDNN=1 INTERFACE_LINK_LIBRARIES OpenMP::OpenMP_CXX)
endif()
