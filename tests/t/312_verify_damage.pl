# walcrypt-ctl verify names file, block and reason of every bad page, of every kind of file, whatever the number of jobs; what is
# missing; what it does not know; and it claims no more than it can know without data checksums.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Contents;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/damage';
mkdir $tmp, 0700;
my $kek = 'file:' . kek_file("$tmp/kek");
my $node = Walcrypt::Node->new('one');
$node->init_encrypted($kek, allows_streaming => 1);
$node->append_conf('postgresql.conf', "autovacuum = off\nwal_keep_size = '64MB'\n");
$node->start;
contents_make($node, 'x', "$tmp/space");
my %path = map { $_ => $node->safe_psql('postgres', "SELECT pg_relation_filepath('$_')") }
  qw(heap heap_pkey heap_body_idx heap_p_idx heap_a_idx heap_k_idx heap_body_idx1 there unlogged numbers pg_database);
$path{toast} = $node->safe_psql('postgres', "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = 'toast'");
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
$node->stop;
my $dir = $node->data_dir;

sub verify { return ctl_output('verify', '-D', $dir, '--kek', $kek, @_); }
sub lines  { return join("\n", sort grep { m{^(?:base|global|pg_tblspc|pg_wal)/} } split(/\n/, $_[0])) . "\n"; }
my ($rc, $out, $err) = verify();
is($rc, 0, 'clean') or diag($out);

# Change bytes of a file and remember what stood there.
my @changed;
sub change
{
	my ($file, $offset, $bytes) = @_;
	open(my $f, '+<:raw', "$dir/$file") or die "$file: $!";
	seek($f, $offset, 0);
	read($f, my $old, length $bytes);
	push @changed, [ $file, $offset, $old ];
	seek($f, $offset, 0);
	print $f $bytes;
	close $f;
	return;
}
sub restore
{
	for my $c (reverse @changed) {
		open(my $f, '+<:raw', "$dir/$c->[0]") or die;
		seek($f, $c->[1], 0);
		print $f $c->[2];
		close $f;
	}
	@changed = ();
	return;
}
sub noise { return join('', map { chr(int(rand(255)) + 1) } 1 .. $_[0]); }

# every kind of relation and of fork at once: one line for each, with file, block and reason
my @want;
for my $what (sort keys %path) {
	change($path{$what}, 6000, "\x11\x22\x33");
	push @want, qr{^\Q$path{$what}\E: block 0 of the main fork is damaged: its checksum is [0-9a-f]{4}, but must be [0-9a-f]{4}$}m;
}
for my $fork (qw(fsm vm)) {
	change("$path{heap}_$fork", 100, noise(64));
	push @want, qr{^\Q$path{heap}_$fork\E: block 0 of the $fork fork is damaged: its checksum}m;
}
change("$path{unlogged}_init", 0, noise(8192)), push @want, qr{^\Q$path{unlogged}_init\E: block 0 of the init fork is damaged or under another key: its header makes no sense$}m
  if -s "$dir/$path{unlogged}_init";
# neighbours with the same fault are told together, others alone
change($path{heap}, 4 * 8192, noise(3 * 8192));
push @want, qr{^\Q$path{heap}\E: blocks 4 to 6 of the main fork are damaged or under another key: their headers make no sense$}m;
change($path{heap}, 8 * 8192 + 7000, "\x77");
change($path{heap}, 9 * 8192 + 7000, "\x77");
push @want, qr{^\Q$path{heap}\E: blocks 8 to 9 of the main fork are damaged: their checksums do not fit$}m;
($rc, $out) = verify('--jobs', 1);
is($rc, 3, 'damage of every kind of relation: exit status 3');
like($out, $_, "found: $_") for @want;
is(scalar(() = lines($out) =~ /\n/g), scalar @want, '... and nothing else') or diag($out);
like($out, qr/^@{[ scalar @want ]} findings, @{[ scalar(@want) + 2 + 1 ]} bad pages$/m, '... counted');
for my $jobs (2, 5, 64) {
	my (undef, $other) = verify('--jobs', $jobs);
	is(lines($other), lines($out), "the same with $jobs jobs");
}
my $json = decode_json((verify('--json'))[1]);
is(scalar @{ $json->{findings} }, scalar @want, 'the same as JSON');
is($json->{bad_pages}, scalar(@want) + 3, '... with their number');
restore();
($rc, $out) = verify();
is($rc, 0, 'all put right: clean') or diag($out);

# WAL: every bad page, in runs
my ($segment) = sort grep { m{/[0-9A-F]{24}$} } glob("$dir/pg_wal/*");
my $wal = $segment =~ s{^\Q$dir\E/}{}r;
change($wal, (10 + $_) * 8192, noise(24)) for 0, 1, 2, 5;
change($wal, 20 * 8192 + 2, pack('S', 0x8000 | 77 << 8));
($rc, $out) = verify();
is($rc, 3, 'bad WAL pages: exit status 3');
like($out, qr{^\Q$wal\E: WAL pages 10 to 12 have no valid headers$}m, '... those in a row');
like($out, qr{^\Q$wal\E: WAL page 15 has no valid header$}m, '... one alone');
like($out, qr{^\Q$wal\E: WAL page 20 cannot be decrypted: .*epoch 77}m, '... one under a key that is not there');
restore();

# what is missing
my ($control) = `PGDATA=$dir pg_controldata -D $dir` =~ /^Latest checkpoint's REDO WAL file: +(\w+)/m;
rename("$dir/pg_wal/$control", "$tmp/$control") or die;
($rc, $out) = verify();
is($rc, 3, 'the WAL that the server needs is missing: exit status 3');
like($out, qr{^pg_wal/$control: is missing: the server needs it to start$}m, '... named');
rename("$tmp/$control", "$dir/pg_wal/$control") or die;
open(my $f, '>', "$dir/$path{heap}.2") or die;
print $f 'x' x 8192;
close $f;
($rc, $out) = verify();
is($rc, 3, 'a segment of a relation is missing: exit status 3');
like($out, qr{^\Q$path{heap}.1\E: is missing: "\Q$path{heap}.2\E" follows it$}m, '... named');
rename("$dir/$path{heap}.2", "$dir/$path{heap}.1");
($rc, $out) = verify();
like($out, qr{^\Q$path{heap}\E: has \d+ bytes instead of 1 GB: "\Q$path{heap}.1\E" follows it$}m, 'a segment is too short');
unlink "$dir/$path{heap}.1";
open($f, '>', "$dir/$path{heap}.1") or die;
close $f;
($rc, $out) = verify();
is($rc, 0, 'an empty later segment is what a truncation leaves');
unlink "$dir/$path{heap}.1";

# what walcrypt does not know: listed, no finding
for my $file ('base/5/extension.dat', 'autoprewarm.blocks', 'pg_stat/pg_stat_kcache.stat', 'other/thing', 'pg_wal/notes.txt') {
	mkdir "$dir/other";
	open($f, '>', "$dir/$file") or die "$file: $!";
	print $f 'something';
	close $f;
}
($rc, $out) = verify();
is($rc, 0, 'files of extensions are no findings');
is(join(' ', sort $out =~ /^(\S+): unknown, not looked into/mg), 'autoprewarm.blocks base/5/extension.dat other/thing pg_stat/pg_stat_kcache.stat pg_wal/notes.txt', '... but each is named');
like($out, qr/^5 files are of no class that walcrypt knows$/m, '... and counted');
is(scalar @{ decode_json((verify('--json'))[1])->{unknown_files} }, 5, '... as JSON, too');
unlink map { "$dir/$_" } 'base/5/extension.dat', 'autoprewarm.blocks', 'pg_stat/pg_stat_kcache.stat', 'other/thing', 'pg_wal/notes.txt';

# a standby, running, under load
$node->start;
mkdir "$tmp/space_two";
my $standby = Walcrypt::Node->new('two');
system_or_bail('pg_basebackup', '-D', $standby->data_dir, '-d', $node->connstr('postgres'), '--checkpoint=fast', '--no-sync', '--no-verify-checksums', '-R', '-T', "$tmp/space=$tmp/space_two");
$standby->append_conf('postgresql.conf', 'port = ' . $standby->port . "\nunix_socket_directories = '" . $standby->host . "'\n");
$standby->use_layer($kek)->start;
my $load = IPC::Run::start([ 'pgbench', '-n', '-i', '-s', 5, '-q', '-h', $node->host, '-p', $node->port, 'postgres' ], '<', \undef, '>&', \my $o);
my ($rounds, $failed) = (0, 0);
do {
	($rc, $out) = ctl_output('verify', '-D', $standby->data_dir, '--kek', $kek, '--jobs', 3);
	$failed++, diag($out) if $rc != 0;
	$rounds++;
} while ($load->pumpable && $rounds < 40);
$load->finish;
is($failed, 0, "a running standby under load is clean in $rounds rounds");
like($out, qr/^server: running/m, '... and said to run');
my $other = $standby->data_dir;
$standby->stop;
open($f, '+<:raw', "$other/$path{heap}") or die;
seek($f, 3 * 8192 + 5000, 0);
print $f "\x01\x02\x03";
close $f;
$standby->start;
($rc, $out) = ctl_output('verify', '-D', $other, '--kek', $kek);
is($rc, 3, 'damage on a running standby: exit status 3');
like($out, qr{^\Q$path{heap}\E: block 3 of the main fork is damaged: its checksum}m, '... named');
$_->stop for $standby, $node;

# without data checksums
my $plain = Walcrypt::Node->new('three');
$plain->init_encrypted($kek, ctl_options => ['--allow-no-checksums']);
$plain->start;
$plain->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) i; CHECKPOINT');
my $file = $plain->data_dir . '/' . $plain->safe_psql('postgres', "SELECT pg_relation_filepath('t')");
$plain->stop;
($rc, $out) = ctl_output('verify', '-D', $plain->data_dir, '--kek', $kek);
is($rc, 0, 'without data checksums');
like($out, qr/^everything decrypts to plausible page headers; without data checksums nothing proves the pages' contents$/m, '... it claims no more than it knows');
open($f, '+<:raw', $file) or die;
seek($f, 8192, 0);
print $f noise(512);
close $f;
($rc, $out) = ctl_output('verify', '-D', $plain->data_dir, '--kek', $kek);
is($rc, 3, '... a header that makes no sense is found all the same');
like($out, qr{: block 1 of the main fork is damaged or under another key: its header makes no sense$}m, '... and named');
done_testing();
