/* run_f32.c - the runs in float; tests have them in double. */
#include "run_engram.h"
#include "run_hyper.h"
#include "run_mtp.h"
