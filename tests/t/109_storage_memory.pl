# Keys and shared memory of a running server: no key and no round key in a core, an environment or a command line, with a
# core that leaves nothing out as the control; and walcrypt.lock_shared_memory, which locks shared memory in RAM or names the limit.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Strace;

needs_strace('attach');    # gdb, as strace
my $dir = PostgreSQL::Test::Utils::tempdir();
my $kek = kek_file("$dir/kek");
my $node = Walcrypt::Node->new('one');
$node->init_encrypted("file:$kek", allows_streaming => 1, extra => ['-k']);
# little shared memory: cores are small, and it fits into a usual limit
$node->append_conf('postgresql.conf', "shared_buffers = 128kB\nwal_buffers = 64kB\nmax_connections = 10\nmax_wal_senders = 2\nmax_worker_processes = 4\nmax_locks_per_transaction = 10\nmax_pred_locks_per_transaction = 10\nautovacuum_max_workers = 1\nhuge_pages = off\nrestart_after_crash = off\n");

sub leaks
{
	my (@files) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'python3', "$FindBin::RealBin/../decoder/leaks.py", '--key-dir', $node->data_dir . '/pg_cryptokeys', '--kek-file', $kek, @files ],
		'<', \undef, '>', \$out, '2>', \$err);
	die "leaks.py: $err" if $err ne '';
	return $out;
}

# A core by gdb; everything: also what the process has excluded from dumps.
sub core_of
{
	my ($pid, $everything) = @_;
	my $file = "$dir/core.$pid" . ($everything ? '.everything' : '');
	my @settings = $everything ? ('-ex', 'set dump-excluded-mappings on', '-ex', 'set use-coredump-filter off') : ();
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'gdb', '-nx', '-q', '-batch', '-p', $pid, @settings, '-ex', "gcore $file" ], '<', \undef, '>', \$out, '2>', \$err);
	die "gdb made no core: $out$err" if !-s $file;
	return $file;
}

sub children
{
	my ($parent) = @_;
	my %found;
	for my $stat (glob('/proc/[0-9]*/stat')) {
		my ($pid, $ppid) = slurp_from($stat) =~ /^(\d+) \(.*\) \S (\d+) / or next;
		next if $ppid != $parent;
		my ($name) = slurp_from("/proc/$pid/cmdline") =~ /postgres: (?:one: )?([^\0]*)/;
		$found{$name // 'unknown'} = $pid;
	}
	return %found;
}

# recovery that does not end: the startup process stays
$node->start;
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) i; CHECKPOINT');
$node->stop;
$node->set_standby_mode;
$node->start;
my $session = $node->background_psql('postgres');
my $backend = $session->query_safe('SELECT pg_backend_pid() FROM (SELECT sum(i) FROM t) s') =~ /(\d+)/ ? $1 : die;
my %children = children($node->{_pid});
my ($startup) = map { $children{$_} } grep { /^startup/ } keys %children;
my %process = (postmaster => $node->{_pid}, backend => $backend, startup => $startup);
for my $name (sort keys %process) {
	my $core = core_of($process{$name});
	cmp_ok(-s $core, '>', 1e6, "$name: a core");
	is(leaks($core), '', 'holds no key and no round key');
	unlink $core;
	$core = core_of($process{$name}, 1);
	my $found = leaks($core);
	like($found, qr/: \Q$_\E$/m, "one that leaves nothing out holds the $_") for 'relation key', 'first XTS key', 'round key 14 of the first XTS key';
	unlike($found, qr/cluster key/, 'and not the cluster key');
	unlink $core;
}
my @shown = map { ("/proc/$_/environ", "/proc/$_/cmdline") } $node->{_pid}, values %{ { children($node->{_pid}) } };
cmp_ok(scalar @shown, '>=', 10, 'environments and command lines of ' . @shown / 2 . ' processes');
is(leaks(grep { length slurp_from($_) } @shown), '', 'hold no key');
$session->quit;
$node->stop;
unlink $node->data_dir . '/standby.signal';

# a core as the kernel writes it
SKIP:
{
	my $pattern = slurp_from('/proc/sys/kernel/core_pattern');
	skip "the kernel's cores go elsewhere: $pattern", 2 if $pattern =~ m{^\s*[|/]};
	local %ENV = $node->_get_env;
	system_or_bail('pg_ctl', '-c', '-w', '-D', $node->data_dir, '-l', $node->logfile, 'start');
	my ($pid) = slurp_from($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my %now = children($pid);
	my ($checkpointer) = map { $now{$_} } grep { /^checkpointer/ } keys %now;
	kill('ABRT', $checkpointer);
	my $core = wait_for('a core', sub {
		my ($c) = grep { -s } glob($node->data_dir . '/core*');
		return $c if slurp_from("/proc/$pid/stat") !~ /^\d+ \(.*\) [^Z]/s;
		return 0;
	});
	cmp_ok(-s $core, '>', 1e6, 'SIGABRT: a core');
	is(leaks($core), '', 'holds no key and no round key');
	unlink glob($node->data_dir . '/core*'), $node->data_dir . '/postmaster.pid';
}

# locked shared memory
sub locked_kib
{
	my ($pid) = @_;
	return slurp_from("/proc/$pid/status") =~ /^VmLck:\s+(\d+) kB/m ? $1 : die;
}

sub size_kib { return $node->safe_psql('postgres', q{SELECT setting::int * 1024 FROM pg_settings WHERE name = 'shared_memory_size'}); }

$node->start;
my $size = size_kib();
cmp_ok(locked_kib($node->{_pid}), '<', 512, 'only keys are locked in RAM');
$node->stop;
$node->append_conf('postgresql.conf', "walcrypt.lock_shared_memory = on\n");
$node->start;
cmp_ok(locked_kib($node->{_pid}), '>=', $size - 1024, "walcrypt.lock_shared_memory: all shared memory is ($size kB)");
is($node->safe_psql('postgres', 'SHOW walcrypt.lock_shared_memory'), 'on', 'SHOW tells');
is($node->safe_psql('postgres', 'SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SELECT sum(i) FROM t'), '50005000',
	'a parallel query works, whose memory is locked too');
$node->append_conf('postgresql.conf', "shared_memory_type = sysv\ndynamic_shared_memory_type = sysv\n");
$node->restart;
cmp_ok(locked_kib($node->{_pid}), '>=', $size - 1024, 'so it is with System V shared memory');
is($node->safe_psql('postgres', 'SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SELECT sum(i) FROM t'), '50005000', 'in parallel too');
$node->stop;
$node->append_conf('postgresql.conf', "shared_buffers = 16MB\n");
for my $type ('sysv', 'mmap') {
	$node->append_conf('postgresql.conf', "shared_memory_type = $type\n");
	my $offset = -s $node->logfile;
	local %ENV = $node->_get_env;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ 'prlimit', '--memlock=2097152:2097152', 'pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, 'start' ],
		'<', \undef, '>', \$out, '2>', \$err);
	ok(!$ok, "$type: a server whose limit is too small does not start");
	my $log = slurp_from($node->logfile, $offset);
	like($log, qr/FATAL:  could not lock \d+ bytes of shared memory in RAM: Cannot allocate memory/, 'it says why');
	like($log, qr/HINT:  Raise the limit of locked memory, now 2048 kB, to at least \d{4,} kB \(LimitMEMLOCK/, 'and names the limit');
	ok(!-e $node->data_dir . '/postmaster.pid', 'it leaves no lock file');
}
$node->append_conf('postgresql.conf', "walcrypt.lock_shared_memory = perhaps\n");
is($node->start(fail_ok => 1), 0, 'a value that is none is refused');
like(slurp_file($node->logfile), qr/FATAL:  invalid value for parameter "walcrypt.lock_shared_memory": "perhaps"/, 'by name');
$node->append_conf('postgresql.conf', "walcrypt.lock_shared_memory = off\n");
$node->start;
cmp_ok(locked_kib($node->{_pid}), '<', 512, 'off is off');
$node->stop;
done_testing();
