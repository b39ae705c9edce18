#!/bin/sh
# Builds the kernels and puts them into a site-packages folder: for editable installations.
# Without a compiler it says so and succeeds: ticketry works without them.
set -u
here=$(cd "$(dirname "$0")" && pwd)
build="$here/../build/native"
log="$here/../build/native.log"
mkdir -p "$here/../build"
if cmake -S "$here" -B "$build" -DCMAKE_BUILD_TYPE=Release >"$log" 2>&1 &&
  cmake --build "$build" >>"$log" 2>&1 && cmake --install "$build" --prefix "$1" >>"$log" 2>&1; then
  echo "Built the sparse kernels."
else
  echo "The sparse kernels could not be built (see build/native.log); sparse layers will run as dense ones."
fi
