// Package crashpoint names the lines at which a process may die, so that tests can make it die exactly there.
//
// Points are compiled in only with the build tag "crashpoints"; otherwise Here is an empty function that the compiler removes.
// The environment variable SEAL_CRASH=point[:n] kills the process with SIGKILL when the n-th pass (default 1) reaches the point.
package crashpoint
