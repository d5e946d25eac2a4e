package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

const mtu = 1420

// runWireGuardPeer is one end of a plain link: wireguard-go over a kernel TUN.
// Arguments: interface, address, private key, port, peer's public key, peer's
// endpoint or "", allowed prefix.
func runWireGuardPeer(ctx context.Context, args []string) error {
	if len(args) != 7 {
		return errors.New("wireguard-peer: wants seven arguments")
	}
	dev, err := tun.CreateTUN(args[0], mtu)
	if err != nil {
		return err
	}
	d := device.NewDevice(dev, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, args[0]+": "))
	defer d.Close()
	conf := fmt.Sprintf("private_key=%s\nlisten_port=%s\npublic_key=%s\nallowed_ip=%s\n", args[2], args[3], args[4], args[6])
	if args[5] != "" {
		conf += "endpoint=" + args[5] + "\npersistent_keepalive_interval=25\n"
	}
	if err := d.IpcSet(conf); err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(args[0])
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(args[1])
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return nil
}
