# The project's own build rules, so that the top file reads as a list of parts.

add_library(palimpsest_warnings INTERFACE)
target_compile_options(palimpsest_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
  -Wsign-conversion -Wold-style-cast -Wnon-virtual-dtor -Wcast-qual -Wformat=2
  -Woverloaded-virtual -Wdouble-promotion -Wundef
  # GCC's null-dereference check needs the optimiser and is wrong about inlined containers there.
  $<$<NOT:$<CXX_COMPILER_ID:GNU>>:-Wnull-dereference>
  # GCC 12 is wrong about text + std::string (GCC bug 105651).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)

set(PALIMPSEST_FOLDERS "" CACHE INTERNAL "")

# palimpsest_folder(NAME LIB...): the sources in src/NAME as objects that may use LIB...
function(palimpsest_folder name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.cpp)
  list(REMOVE_ITEM sources ${PROJECT_SOURCE_DIR}/src/${name}/main.cpp)
  list(FILTER sources EXCLUDE REGEX "/src/train/torch/")  # palimpsest_torch_module()
  add_library(palimpsest_${name} STATIC ${sources})
  target_include_directories(palimpsest_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(palimpsest_${name} PUBLIC ${ARGN} PRIVATE $<BUILD_INTERFACE:palimpsest_warnings>)
  set_target_properties(palimpsest_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  set(PALIMPSEST_FOLDERS ${PALIMPSEST_FOLDERS} ${name} CACHE INTERNAL "")
endfunction()

# The library that others link, from the folders up to compress: as one archive, and as a shared library
# that shows nothing but what include/palimpsest declares.
function(palimpsest_library)
  set(objects)
  foreach(folder ${PALIMPSEST_FOLDERS})
    list(APPEND objects $<TARGET_OBJECTS:palimpsest_${folder}>)
  endforeach()
  add_library(palimpsest STATIC ${objects})
  add_library(palimpsest_shared SHARED ${objects})
  set_target_properties(palimpsest_shared PROPERTIES OUTPUT_NAME palimpsest EXPORT_NAME shared
    VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
  target_link_libraries(palimpsest INTERFACE ggml::ggml llama Threads::Threads OpenSSL::Crypto
    $<BUILD_INTERFACE:Highway::Highway> $<INSTALL_INTERFACE:Highway::Highway>)
  target_link_libraries(palimpsest_shared PRIVATE ggml::ggml llama Threads::Threads OpenSSL::Crypto
    Highway::Highway)
  if(OneDNN_FOUND)
    target_link_libraries(palimpsest INTERFACE $<BUILD_INTERFACE:OneDNN::OneDNN> $<INSTALL_INTERFACE:OneDNN::OneDNN>)
    target_link_libraries(palimpsest_shared PRIVATE OneDNN::OneDNN)
  endif()
  if(LlamaCommon_FOUND)
    target_link_libraries(palimpsest INTERFACE LlamaCommon::LlamaCommon)
    target_link_libraries(palimpsest_shared PRIVATE LlamaCommon::LlamaCommon)
  endif()
  foreach(library palimpsest palimpsest_shared)
    set_target_properties(${library} PROPERTIES LINKER_LANGUAGE CXX)
    target_include_directories(${library} INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
      $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
    target_compile_features(${library} INTERFACE cxx_std_20)
  endforeach()
  add_library(palimpsest::palimpsest ALIAS palimpsest)
  add_library(palimpsest::shared ALIAS palimpsest_shared)
endfunction()

# The files of web/ as a part of the program.
function(palimpsest_page target)
  file(GLOB_RECURSE files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/web/*)
  set(source ${PROJECT_BINARY_DIR}/generated/server/page_files.cpp)
  add_custom_command(OUTPUT ${source} DEPENDS ${files} ${PROJECT_SOURCE_DIR}/cmake/embed.cmake
    COMMAND ${CMAKE_COMMAND} -DFROM=${PROJECT_SOURCE_DIR}/web -DTO=${source}
      -P ${PROJECT_SOURCE_DIR}/cmake/embed.cmake)
  target_sources(${target} PRIVATE ${source})
endfunction()

# The version and commit that --version and every benchmark line state.
function(palimpsest_version target)
  execute_process(COMMAND git describe --always --dirty --abbrev=10 WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
    OUTPUT_VARIABLE PALIMPSEST_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT PALIMPSEST_COMMIT)
    set(PALIMPSEST_COMMIT "unknown commit")
  endif()
  configure_file(${PROJECT_SOURCE_DIR}/src/cli/version.h.in ${PROJECT_BINARY_DIR}/generated/cli/version.h @ONLY)
  target_include_directories(${target} PUBLIC ${PROJECT_BINARY_DIR}/generated)
  # Configure again after a commit, so that the name stays true.
  if(EXISTS ${PROJECT_SOURCE_DIR}/.git/logs/HEAD)
    set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
      ${PROJECT_SOURCE_DIR}/.git/logs/HEAD)
  endif()
endfunction()

# What trains with LibTorch, if it is there: a module that the program loads for that alone.
function(palimpsest_torch_module)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/train/torch/*.cpp)
  add_library(palimpsest_torch_code STATIC ${sources})
  set_target_properties(palimpsest_torch_code PROPERTIES POSITION_INDEPENDENT_CODE ON
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_include_directories(palimpsest_torch_code SYSTEM PUBLIC ${TORCH_INCLUDE_DIRS})
  target_link_libraries(palimpsest_torch_code PUBLIC palimpsest_train ${TORCH_LIBRARIES}
    PRIVATE palimpsest_warnings)
  # LibTorch's headers are older than C++20's last words.
  target_compile_options(palimpsest_torch_code PRIVATE -Wno-deprecated -Wno-error=conversion)
  add_library(palimpsest_torch MODULE $<TARGET_OBJECTS:palimpsest_torch_code>)
  target_link_libraries(palimpsest_torch PRIVATE palimpsest_train ${TORCH_LIBRARIES})
endfunction()

function(palimpsest_program)
  add_executable(palimpsest_cli_program ${PROJECT_SOURCE_DIR}/src/cli/main.cpp)
  set_target_properties(palimpsest_cli_program PROPERTIES OUTPUT_NAME palimpsest)
  target_link_libraries(palimpsest_cli_program PRIVATE palimpsest_cli palimpsest_warnings)
endfunction()

function(palimpsest_install)
  include(CMakePackageConfigHelpers)
  set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/palimpsest)
  install(TARGETS palimpsest palimpsest_shared EXPORT palimpsest-targets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(TARGETS palimpsest_cli_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
  if(TARGET palimpsest_torch)
    install(TARGETS palimpsest_torch LIBRARY DESTINATION lib/palimpsest)  # where the program looks
  endif()
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/palimpsest DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/NOTICE
    DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)
  # Trained weights, which a model finds by its fingerprint (model/load.h).
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/weights/ DESTINATION share/palimpsest/weights COMPONENT program
    FILES_MATCHING PATTERN "*.evict.gguf")
  install(EXPORT palimpsest-targets NAMESPACE palimpsest:: DESTINATION ${package_dir})
  # The prefix set-up used, so that a consumer finds the same ggml without knowing about it.
  set(PALIMPSEST_HAS_ONEDNN ${OneDNN_FOUND})
  set(PALIMPSEST_HAS_JINJA ${LlamaCommon_FOUND})
  set(PALIMPSEST_DEPS_PREFIX "${PALIMPSEST_DEPS_PREFIX}")
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/palimpsest-config.cmake.in
    ${PROJECT_BINARY_DIR}/palimpsest-config.cmake INSTALL_DESTINATION ${package_dir})
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/palimpsest-config-version.cmake
    COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/palimpsest-config.cmake
    ${PROJECT_BINARY_DIR}/palimpsest-config-version.cmake
    ${PROJECT_SOURCE_DIR}/cmake/FindHighway.cmake ${PROJECT_SOURCE_DIR}/cmake/FindOneDNN.cmake
    ${PROJECT_SOURCE_DIR}/cmake/FindLlamaCommon.cmake DESTINATION ${package_dir})
endfunction()
