# LlamaCommon::LlamaCommon, the part of llama.cpp that renders chat templates. Its interface is internal and changes with
# every version, so it counts only where set-up built it beside libllama.
find_path(LlamaCommon_INCLUDE_DIR jinja/runtime.h PATH_SUFFIXES llama-common)
find_library(LlamaCommon_LIBRARY llama-common)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LlamaCommon REQUIRED_VARS LlamaCommon_LIBRARY LlamaCommon_INCLUDE_DIR)
if(LlamaCommon_FOUND AND NOT TARGET LlamaCommon::LlamaCommon)
  add_library(LlamaCommon::LlamaCommon UNKNOWN IMPORTED)
  set_target_properties(LlamaCommon::LlamaCommon PROPERTIES IMPORTED_LOCATION "${LlamaCommon_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${LlamaCommon_INCLUDE_DIR}"
    INTERFACE_COMPILE_DEFINITIONS PALIMPSEST_HAS_JINJA=1)
endif()
