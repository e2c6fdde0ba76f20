#pragma once

namespace palimpsest {

/// From now on a file that somebody cuts short while it is read in place ends the program with a
/// message that names it and the status of damaged files.
void end_on_lost_files();

}  // namespace palimpsest
