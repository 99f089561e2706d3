# SPDX-License-Identifier: Apache-2.0
# What the tests in this folder share: `expect WHAT WANTED GOT` prints a line for each comparison; the last line ends the script
# with the number of differences.
differences=0
expect() {
  if [ "$2" = "$3" ]; then
    echo "ok $1: $3"
  else
    echo "not ok $1: wanted $2, got $3"
    differences=$((differences + 1))
  fi
}
finish() {
  exit "$differences"
}
