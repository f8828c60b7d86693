# Goal: the same bytes asked for again leave the proxy as the same ciphertext, after any kind of stop; a primary that was rolled
# back, and whatever else leaves it unsure, begins a new incarnation, so that no keystream meets two plaintexts (W5).
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use Test::More;
use Walcrypt;

my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => [ '-k', '--wal-segsize=1' ]);
$red->append_conf('postgresql.conf', "wal_keep_size = 128MB\nautovacuum = off\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t (i int, text text); CHECKPOINT');
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;

# The position after it; something more follows, because pg_receivewal stops only beyond its end.
sub fill { my ($what, $rows) = @_; my $at = $red->safe_psql('postgres', "INSERT INTO t SELECT i, '$what' || md5(i::text || random()::text) FROM generate_series(1, $rows) i; SELECT pg_current_wal_flush_lsn()"); $red->safe_psql('postgres', 'INSERT INTO t VALUES (0, NULL)'); return $at; }

# Take WAL from the beginning of the segment of $from to $to; the folder.
my $start = $red->safe_psql('postgres', "SELECT pg_walfile_name(pg_current_wal_lsn())");
sub receive
{
	my ($to) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	# pg_receivewal begins where its folder ends: after an empty segment before the first one wanted
	my $before = sprintf('%08X%08X%08X', 1, hex(substr($start, 8, 8)), hex(substr($start, 16)) - 1);
	open(my $f, '>', "$dir/$before") or die;
	truncate($f, 1 << 20);
	close $f;
	my ($out, $err) = ('', '');
	my $rc = IPC::Run::run([ 'pg_receivewal', '-d', $proxy->connstr('blue'), '-D', $dir, '--endpos', $to, '--no-loop' ], '>', \$out, '2>', \$err);
	ok($rc, "WAL up to $to") or diag($err);
	unlink "$dir/$before";
	return $dir;
}

# Generations of the pages of a folder's segments: name -> [..]
sub generations
{
	my ($dir) = @_;
	my %g;
	for my $path (glob("$dir/*")) {
		my ($name) = $path =~ m{([0-9A-F]{24})} or next;
		my $data = slurp_file($path);
		for (my $at = 0; $at < length $data; $at += 8192) {
			my ($magic, $info, $generation) = (unpack('vv', substr($data, $at, 4)), unpack('V', substr($data, $at + 20, 4)));
			push @{ $g{$name} }, $generation if ($magic >> 8) == 0xD1 && $info & 0x8000;
		}
	}
	return \%g;
}

# The names of files whose bytes up to a position differ. What the primary wrote after it may have come too.
sub differing
{
	my ($x, $y, $to) = @_;
	my ($high, $low) = map { hex } split(m{/}, $to);
	my $last = sprintf('%08X%08X%08X', 1, $high, $low >> 20);
	my @bad;
	for my $path (glob("$x/*")) {
		my ($name) = $path =~ m{([0-9A-F]{24})} or next;
		next if $name gt $last;
		my ($other) = grep { -e } "$y/$name", "$y/$name.partial";
		my $len = $name eq $last ? $low & 0xfffff : 1 << 20;
		push @bad, $name if !defined $other || substr(slurp_file($path), 0, $len) ne substr(slurp_file($other), 0, $len);
	}
	return @bad;
}
sub incarnations { my $log = slurp_file($proxy->logfile); return scalar(() = $log =~ /begins a new incarnation/g); }

my $end = fill('one', 20000);
my $first = receive($end);
cmp_ok(scalar(keys %{ generations($first) }), '>', 2, 'several segments of WAL');
is(incarnations(), 1, 'the first stream of a timeline begins its first incarnation');
my %seen = map { $_ => 1 } map { @$_ } values %{ generations($first) };
is(scalar(keys %seen), 1, 'all pages have one generation');
ok((keys %seen)[0] & 0x80000000, 'with the proxy\'s bit');

is(join(' ', differing($first, receive($end), $end)), '', 'asked again: the same bytes');
$proxy->restart;
is(join(' ', differing($first, receive($end), $end)), '', 'after a clean restart: the same bytes');
$proxy->kill9;
$proxy->start;
is(join(' ', differing($first, receive($end), $end)), '', 'after kill -9: the same bytes');
$red->restart;
is(join(' ', differing($first, receive($end), $end)), '', 'after a restart of the primary: the same bytes');
$red->stop('immediate');
$red->start;
is(join(' ', differing($first, receive($end), $end)), '', 'after its crash: the same bytes');
is(incarnations(), 1, 'all under one incarnation');

# a snapshot of the primary is restored, and it writes something else
$red->stop;
my $snapshot = PostgreSQL::Test::Utils::tempdir() . '/snapshot';
PostgreSQL::Test::RecursiveCopy::copypath($red->data_dir, $snapshot);
sub restore { $red->stop('immediate'); system_or_bail('rm', '-rf', $red->data_dir); PostgreSQL::Test::RecursiveCopy::copypath($snapshot, $red->data_dir); chmod 0700, $red->data_dir; $red->start; return; }
$red->start;
my $longer = fill('two', 5000);
my $second = receive($longer);
restore();
my $shorter = fill('three', 100);
my $behind = receive($shorter);
is(incarnations(), 2, 'a primary that is behind begins a new incarnation');
like(slurp_file($proxy->logfile), qr/WARNING:  timeline 1 of cluster \d+ begins a new incarnation: upstream is behind what was sent/, 'and the log says why');
restore();
my $much = fill('four', 9000);
my $other = receive($much);
is(incarnations(), 3, 'a primary that went another way begins a new incarnation');
like(slurp_file($proxy->logfile), qr/begins a new incarnation: upstream's WAL differs from what was sent/, 'and the log says why');
my ($g2, $g4) = (generations($second), generations($other));
my @both = grep { exists $g4->{$_} } keys %$g2;
cmp_ok(scalar @both, '>', 1, 'both histories have the same segments');
my %old = map { $_ => 1 } map { @$_ } values %$g2;
is_deeply([ grep { $old{$_} } map { @$_ } values %$g4 ], [], 'no page of the new one has a generation of the old one');
is(join(' ', differing($other, receive($much), $much)), '', 'the new incarnation stays');
is(incarnations(), 3, 'and no further one begins');

# a session that streams when the line gets another incarnation is ended. The line is edited as the format says.
sub crc32c
{
	my ($crc) = (0xffffffff);
	for my $byte (unpack('C*', $_[0])) { $crc ^= $byte; $crc = $crc & 1 ? ($crc >> 1) ^ 0x82f63b78 : $crc >> 1 for 1 .. 8; }
	return $crc ^ 0xffffffff;
}
sub edit_slots
{
	my ($code) = @_;
	my $path = $proxy->keystore . '/ledger';
	my $ledger = slurp_file($path);
	for my $at (4096 + 56, 4096 + 200) {
		my $slot = substr($ledger, $at, 144);
		die 'the crc is another one' if unpack('Q', $slot) != 0 && unpack('V', substr($slot, 140)) != crc32c(substr($slot, 0, 140));
		substr($ledger, $at, 144, $code->($slot));
	}
	open(my $f, '+<:raw', $path) or die;
	print $f $ledger;
	close $f;
	return;
}
is(unpack('a8', slurp_file($proxy->keystore . '/ledger')), 'WCLEDGR3', 'the ledger is what docs/formats/ledger.md says');
$proxy->kill9;
edit_slots(sub { my ($slot) = @_; substr($slot, 96, 36, 'another-boot-another-boot-another-bo'); return substr($slot, 0, 140) . pack('V', crc32c(substr($slot, 0, 140))); });
$proxy->start;
receive($much);
is(incarnations(), 4, 'a crash of the operating system begins a new incarnation');
like(slurp_file($proxy->logfile), qr/begins a new incarnation: the operating system went down/, 'and the log says why');
$proxy->stop;
edit_slots(sub { my ($slot) = @_; substr($slot, 96, 36, 'another-boot-another-boot-another-bo'); return substr($slot, 0, 140) . pack('V', crc32c(substr($slot, 0, 140))); });
$proxy->start;
receive($much);
is(incarnations(), 4, 'after a clean stop it does not');
$proxy->stop;
edit_slots(sub { my ($slot) = @_; substr($slot, 20, 1, "\xff"); return $slot; });
$proxy->start;
receive($much);
is(incarnations(), 5, 'a damaged line begins a new incarnation');
$proxy->stop;
edit_slots(sub { my ($slot) = @_; return $slot; });
append_to_file($proxy->keystore . '/ledger', 'x');
is($proxy->start(fail_ok => 1), 0, 'a file that is no ledger ends the start');
like(slurp_file($proxy->logfile), qr/FATAL:  ".*ledger" is not a ledger.*HINT:  Move the file away/s, 'and is named');
unlink $proxy->keystore . '/ledger';
$proxy->start;
receive($much);
is(incarnations(), 6, 'without its ledger it begins a new incarnation');

# the segment that was sent last is not there any more
$red->append_conf('postgresql.conf', "wal_keep_size = 0\nmax_wal_size = 2MB\nmin_wal_size = 2MB\n");
$red->reload;
fill('five', 30000);
$red->safe_psql('postgres', 'SELECT pg_switch_wal(); CHECKPOINT; INSERT INTO t VALUES (1, NULL); SELECT pg_switch_wal(); CHECKPOINT');
$end = fill('six', 10);
$start = $red->safe_psql('postgres', "SELECT pg_walfile_name('$end')");
receive($end);
is(incarnations(), 7, 'a segment that is gone begins a new incarnation');
like(slurp_file($proxy->logfile), qr/begins a new incarnation: upstream does not have the WAL any more/, 'and the log says why');

# a long position of which the reservation must be moved ahead more than once
$red->append_conf('postgresql.conf', "wal_keep_size = 400MB\nmax_wal_size = 1GB\n");
$red->reload;
$red->safe_psql('postgres', "SELECT count(pg_logical_emit_message(false, 'x', repeat('z', 1000000))) FROM generate_series(1, 150)");
$end = fill('seven', 10);
my $long = receive($end);
$proxy->kill9;
$proxy->start;
is(join(' ', differing($long, receive($end), $end)), '', '150 MB: the same bytes after kill -9');
is(incarnations(), 7, 'no further incarnation');
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
