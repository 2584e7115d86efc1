// Command kubernetes holds every program of a one-machine Kubernetes in one binary, so that they are built and
// linked once. The program is chosen by the name it is called by (a link `kubectl` is kubectl), or else by the
// first argument: `kubernetes kube-apiserver --flags`.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// command gives the program of that name, or nil if there is none. Only the one asked for is constructed:
// each registers its metrics and feature gates when it is.
func command(name string) *cobra.Command {
	switch name {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand()
	case "kube-controller-manager":
		return controllermanager.NewControllerManagerCommand()
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand()
	case "kubelet":
		return kubelet.NewKubeletCommand(context.Background())
	case "kubectl":
		return kubectl.NewDefaultKubectlCommand()
	}
	return nil
}

// run becomes the program that arguments name, and returns only if they name none.
func run(arguments []string) {
	name := filepath.Base(arguments[0])
	os.Args = arguments
	if name == "etcd" {
		etcdmain.Main(arguments)
		os.Exit(0)
	}
	if program := command(name); program != nil {
		os.Exit(cli.Run(program))
	}
}

func main() {
	arguments := os.Args
	run(arguments)
	if len(arguments) > 1 {
		run(arguments[1:])
	}
	fmt.Fprintln(os.Stderr, "usage: kubernetes kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kubectl|etcd [FLAG]...")
	os.Exit(2)
}
