# Loaded first: the test runs in a network namespace of its own, whose loopback interface also has the address 10.9.9.1: a
# network, for all that a program can see, that nobody else is in.
use strict;
use warnings;

package Walcrypt::Network;

sub import
{
	return if $ENV{WALCRYPT_NETNS};
	if (system('unshare -Un --map-current-user --keep-caps ip link set lo up >/dev/null 2>&1') != 0) {
		require Test::More;
		Test::More::plan(skip_all => 'the kernel gives this user no network namespace, as in a container without privileges; without one there is no network that is not the real one');
	}
	local $ENV{WALCRYPT_NETNS} = 1;
	exec('unshare', '-Un', '--map-current-user', '--keep-caps', 'sh', '-c', 'ip link set lo up && ip addr add 10.9.9.1/32 dev lo && exec "$@"', 'sh',
		$^X, $0, @ARGV) or die "unshare: $!";
}

1;
