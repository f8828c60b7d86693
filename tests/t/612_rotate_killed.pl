# Goal: walcrypt-ctl rotate --old reencrypt is killed while the old primary is re-encrypted: alone, so that the re-encryption lives on; together with it; and
# between the steps by which the keystore takes the new keys. --resume ends it each time, the old primary follows under its next relation key,
# every page is whole, and no acknowledged commit is lost.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Walcrypt;
use Walcrypt::Stopped;
use Walcrypt::Strace;
use Walcrypt::Writers;

needs_strace();
my %node = map { $_ => Walcrypt::Node->new($_) } qw(red blue green);
my $red = $node{red};
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_retrieve_retry_interval = 100ms\nwal_keep_size = 256MB\nlog_statement = none\n");
$red->start;
my $tmp = PostgreSQL::Test::Utils::tempdir();
my $marker = 'marker-612-umgeschluesselt';
$red->safe_psql('postgres', "CREATE TABLE t AS SELECT i, '$marker' || i AS text FROM generate_series(1, 50000) i");
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir },
	map { $_ => { conninfo => $node{$_}->connstr_for_proxy, datadir => $node{$_}->data_dir, keyset => $_ } } qw(blue green) });
$proxy->key_init($_) for qw(blue green);
$proxy->start;
for my $name (qw(blue green)) { $node{$name}->init_from_proxy($proxy, $name); $node{$name}->start; }
my @conf = ('--config', $proxy->conf);
my $logbook = $proxy->keystore . '/switchover.json';
my ($from, $to) = qw(red blue);
sub streams { wait_for("$to to stream", sub { IPC::Run::run([ $Walcrypt::ctl, 'switchover', @conf, '--to', $to, '--dry-run' ], '<', \undef, '>', \my $out, '2>', \my $err) }); return; }
streams();
my ($rc, $out, $err) = ctl_output('switchover', @conf, '--to', 'blue');
is($rc, 0, 'blue is the primary') or diag($out, $err);
$red->_update_pid(0);
($from, $to) = qw(blue green);
my $writers = Walcrypt::Writers->new(2, @node{qw(blue green)});
$writers->start;

my %was = map { $_ => [ relation_key($proxy->keystore . "/$_") ] } qw(blue green);

# The end of each: go on, and look at the old primary; then the other way round.
sub ends
{
	my ($what) = @_;
	($rc, $out, $err) = ctl_output('rotate', @conf, '--resume');
	is($rc, 0, "$what: it goes on") or diag($out, $err);
	my $key = relation_key($node{$from}->data_dir . '/pg_cryptokeys');
	is($key, relation_key($proxy->keystore . "/$from"), "$what: the directory has the keystore's key");
	is(join(' ', grep { $_ eq $key } @{ $was{$from} }), '', "$what: one that it never had");
	push @{ $was{$from} }, $key;
	ok(!-e $proxy->keystore . "/$from-next", "$what: nothing is left in the keystore");
	($from, $to) = ($to, $from);
	streams();
	pass("$what: the old primary follows");
	return;
}

# the tool alone: the re-encryption, which it has started, is stopped so that it lives longer
for my $both (0, 1) {
	my $what = $both ? 'killed with the re-encryption' : 'killed alone';
	streams();
	my $dir = $node{$from}->data_dir;
	my ($tool, $child) = in_background("$tmp/out", $Walcrypt::ctl, 'rotate', @conf, '--to', $to, '--old', 'reencrypt', '--yes');
	# looked at often: it may be short
	wait_for('the re-encryption', sub {
		for (1 .. 50) {
			if (() = glob("$dir/base/*/*.walcrypt-*")) {
				($child) = split(' ', slurp_from("/proc/$tool/task/$tool/children"));
				return defined $child && kill('STOP', $child);
			}
			return 1 if waitpid($tool, POSIX::WNOHANG()) == $tool;
			select(undef, undef, undef, 0.002);
		}
		return 0;
	});
	ok(-e "$dir/pg_reencrypt/record", "$what: in the middle") or diag(slurp_from("$tmp/out"));
	kill('KILL', $tool);
	waitpid($tool, 0);
	if (!$both) {
		($rc, $out, $err) = ctl_output('rotate', @conf, '--resume');
		is($rc, 7, "$what: while the re-encryption lives on") or diag($out, $err);
		like($err, qr/walcrypt-ctl reencrypt ended with exit status 6/, '... that is said');
		is($node{$to}->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', '... the new primary is not disturbed');
	}
	kill('KILL', $child);
	# of all its threads: one that still ends has the directory's lock
	wait_for('its end', sub { !grep { slurp_from("$_/stat") =~ /^\d+ \(.*\) [^ZX]/s } glob("/proc/$child/task/*") });
	ends($what);
}

# between the renames that follow: those of the two keysets, then the logbook's
for my $renames (1 .. 3) {
	streams();
	my $tool = Walcrypt::Stopped->at_state($proxy->keystore, 'followed', 'rotate', @conf, '--to', $to, '--old', 'reencrypt', '--yes');
	for (1 .. $renames) { $tool->go_on; $tool->stopped or die; }
	my @there = map { s{.*/}{}r } glob($proxy->keystore . "/$from*");
	$tool->kill9;
	ends("killed with @there");
}

$writers->wait_for_commits(20);
$writers->account($node{$from}, only_lost_connections => 1);
for my $name (qw(green blue)) {
	my $dir = $node{$name}->data_dir;
	system_or_bail('pg_ctl', '-D', $dir, '-m', 'fast', '-w', 'stop');
	$node{$name}->_update_pid(0);
	($rc, $out, $err) = ctl_output('verify', '-D', $dir, @conf);
	is($rc, 0, "$name: every page and WAL page is whole under its keys") or diag($out, $err);
	is(join(' ', files_containing($marker, $dir)), '', "$name: and none is clear");
}
done_testing();
