# cmake -DFROM=folder -DTO=file.cpp -P embed.cmake: the files of a folder as a table in C++.
file(GLOB_RECURSE files RELATIVE ${FROM} ${FROM}/*.html ${FROM}/*.css ${FROM}/*.js ${FROM}/*.svg)
list(SORT files)
set(arrays "")
set(table "")
set(i 0)
foreach(file ${files})
  file(READ ${FROM}/${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(APPEND arrays "const unsigned char kFile${i}[] = {${bytes}0x00};\n")
  string(APPEND table
    "    {\"${file}\", {reinterpret_cast<const char*>(kFile${i}), sizeof kFile${i} - 1}},\n")
  math(EXPR i "${i} + 1")
endforeach()
file(WRITE ${TO}.new "// Made by cmake/embed.cmake.
#include \"server/page_files.h\"
#include <array>
namespace palimpsest {
namespace {
${arrays}
const std::array<PageFile, ${i}> kFiles = {{
${table}}};
}  // namespace
std::span<const PageFile> page_files() { return kFiles; }
}  // namespace palimpsest
")
execute_process(COMMAND ${CMAKE_COMMAND} -E copy_if_different ${TO}.new ${TO})
