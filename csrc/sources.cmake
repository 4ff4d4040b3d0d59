# Writes a C++ file that holds the digest of the native core's sources, by which a table knows what it was made with:
#     cmake -DSOURCES=<folder> -DOUTPUT=<file> -P sources.cmake
# Comments and the layout of the text do not count.
file(GLOB_RECURSE files RELATIVE "${SOURCES}" "${SOURCES}/*.h" "${SOURCES}/*.cpp" "${SOURCES}/*.cu")
list(SORT files)
set(digests "")
foreach(file IN LISTS files)
    file(READ "${SOURCES}/${file}" text)
    string(REGEX REPLACE "//[^\n]*" "" text "${text}")
    string(REGEX REPLACE "/\\*([^*]|\\*+[^*/])*\\*+/" "" text "${text}")
    string(REGEX REPLACE "[ \t\r\n]+" "" text "${text}")
    string(SHA256 digest "${text}")
    string(APPEND digests "${file} ${digest}\n")
endforeach()
string(SHA256 digest "${digests}")
file(WRITE "${OUTPUT}" "namespace worldfast { const char* sources_digest() { return \"${digest}\"; } }\n")
