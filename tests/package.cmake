# Installs the build, builds examples/ against the installation, and runs the result.
#   cmake -DBUILD=<build folder> -DSOURCE=<project> -DCONFIG=<type> -DSANITIZE=<list> -P package.cmake

if(SANITIZE)
  message(STATUS "skipped: an installed library with sanitizers needs a program with the same ones")
  return()
endif()

set(work ${BUILD}/package-test)
file(REMOVE_RECURSE ${work})
file(MAKE_DIRECTORY ${work})
# The same compiler and generator as the build's own.
load_cache(${BUILD} READ_WITH_PREFIX own_ CMAKE_GENERATOR CMAKE_MAKE_PROGRAM CMAKE_CXX_COMPILER)

function(step what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${what} failed (${status}):\n${output}")
  endif()
endfunction()

step("installing" ${CMAKE_COMMAND} --install ${BUILD} --config ${CONFIG} --prefix ${work}/prefix)
step("configuring the example" ${CMAKE_COMMAND} -S ${SOURCE}/examples -B ${work}/build
  -G ${own_CMAKE_GENERATOR} -DCMAKE_MAKE_PROGRAM=${own_CMAKE_MAKE_PROGRAM}
  -DCMAKE_CXX_COMPILER=${own_CMAKE_CXX_COMPILER} -DCMAKE_BUILD_TYPE=${CONFIG}
  -DCMAKE_PREFIX_PATH=${work}/prefix)
step("building the example" ${CMAKE_COMMAND} --build ${work}/build --config ${CONFIG})

# What users see includes nothing but itself and the standard library: each header compiles alone, with
# nothing else on the path.
file(GLOB headers ${work}/prefix/include/palimpsest/*.h)
if(NOT headers)
  message(FATAL_ERROR "no header was installed")
endif()
foreach(header ${headers})
  step("compiling ${header} alone" ${own_CMAKE_CXX_COMPILER} -std=c++20 -Wall -Wextra -Wpedantic -Werror
    -I${work}/prefix/include -include ${header} -x c++ -fsyntax-only /dev/null)
endforeach()
file(GLOB_RECURSE others ${work}/prefix/include/*.h)
list(LENGTH others n_others)
list(LENGTH headers n_headers)
if(NOT n_others EQUAL n_headers)
  message(FATAL_ERROR "more than the public headers was installed: ${others}")
endif()

# The shared library has a versioned name, and shows only what those headers declare.
file(GLOB library ${work}/prefix/lib*/libpalimpsest.so.*.*.*)
if(NOT library)
  message(FATAL_ERROR "no shared library with a version was installed")
endif()
execute_process(COMMAND nm -D --defined-only --demangle ${library} OUTPUT_VARIABLE symbols
  RESULT_VARIABLE status)
if(status EQUAL 0)
  if(NOT symbols MATCHES "palimpsest::Engine::Engine")
    message(FATAL_ERROR "the shared library shows no Engine")
  endif()
  foreach(hidden KvCache LoadedModel Backend ggml_ llama_ Tokenizer::encode hwy::)
    string(REGEX MATCH "[^\n]* [TWBDR] [^\n]*${hidden}[^\n]*" found "${symbols}")
    if(found AND NOT found MATCHES "std::")
      message(FATAL_ERROR "the shared library shows ${found}")
    endif()
  endforeach()
endif()

# A model, and what the library says about it inside the build.
set(model ${work}/tiny.gguf)
step("writing a model" ${CMAKE_COMMAND} -E env PALIMPSEST_WRITE_TINY_MODEL=${model}
  ${BUILD}/tests/engine_test --gtest_filter=TinyModel.IsWrittenWhereAsked)
file(STRINGS ${model}.txt expected)

foreach(example answer answer_shared)
  execute_process(COMMAND ${work}/build/${example} ${model} 1 2 3
    RESULT_VARIABLE status OUTPUT_VARIABLE answer ERROR_VARIABLE complaint)
  string(STRIP "${answer}" answer)
  string(STRIP "${expected}" expected)
  if(NOT status EQUAL 0 OR NOT answer STREQUAL expected)
    message(FATAL_ERROR "${example} ended with ${status} and said '${answer}', not '${expected}'\n"
      "${complaint}")
  endif()
endforeach()

step("running the installed program" ${work}/prefix/bin/palimpsest --version)

# What goes wrong reaches a program as an exception with a sentence.
execute_process(COMMAND ${work}/build/answer ${work}/no-such-file.gguf 1
  RESULT_VARIABLE status ERROR_VARIABLE complaint)
if(NOT status EQUAL 1 OR NOT complaint MATCHES "no-such-file.gguf")
  message(FATAL_ERROR "for a missing model the example ended with ${status}: '${complaint}'")
endif()
