# What the keystream-accounting tests share: servers run under the tracer, relays on the wire, a load whose acknowledged
# transactions are remembered outside, and the accountant over all tapes (docs/testing-keystream.md).
use strict;
use warnings;

package Accounting;

use Exporter 'import';
use File::Basename qw(dirname);
use IPC::Run ();
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(accountant events seeded_random);
our $tools = dirname(__FILE__);

# One stream of random numbers for a test; the seed is printed, and SEED=... repeats it.
sub seeded_random
{
	my $seed = $ENV{SEED} // time() * 1000 % 1000000;
	srand($seed);
	note("SEED=$seed repeats this run's random choices");
	return $seed;
}

# The accountant's verdict: (exit status, report).
sub accountant
{
	my @args = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'python3', "$tools/accountant.py", @args ], '<', \undef, '>', \$out, '2>', \$err);
	my $rc = $? >> 8;
	die "accountant.py @args: exit $rc: $err" if $out eq '';
	note("accountant: $out");
	return ($rc, JSON::PP::decode_json($out));
}

# All tracers' lines of an events file, as hashes.
sub events
{
	my ($file) = @_;
	open(my $f, '<', $file) or return ();
	return map { JSON::PP::decode_json($_) } <$f>;
}

# their END blocks run from the last to the first: relays end before servers
use Accounting::Server;
use Accounting::Relay;
use Accounting::Receiver;
use Accounting::Load;

1;
