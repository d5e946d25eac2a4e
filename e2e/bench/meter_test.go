package main

import (
	"os"
	"os/exec"
	"testing"
)

func TestMeter_CountsProcessesThatHaveEnded(t *testing.T) {
	before := cpuOf([]int{os.Getpid()})
	cmd := exec.Command("sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	used := (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	const tick = 1.0 / clockTicks
	if used < 5*tick {
		t.Fatalf("the child used %g s of CPU time: too little to see", used)
	}
	if grown := cpuOf([]int{os.Getpid()}) - before; grown < used-2*tick {
		t.Errorf("a child that used %g s of CPU time made it grow by %g s", used, grown)
	}
}
