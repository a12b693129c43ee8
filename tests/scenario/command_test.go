package scenario

import (
	"errors"
	"os/exec"
)

type commandResult struct {
	text string
	code int
}

func runCommand(args ...string) (commandResult, error) {
	out, err := exec.Command(binary, args...).CombinedOutput()
	r := commandResult{text: string(out)}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.code = exit.ExitCode()
	}
	return r, err
}
