# walcrypt-ctl reencrypt on real clusters: clear -> keyset A -> another relation key -> keyset B -> clear, the rows the same each time,
# the old keys opening nothing; everything that is refused; a damaged page; a primary that comes back as a standby.
use strict;
use warnings;
use Digest::SHA;
use File::Copy qw(copy);
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Contents;
use Walcrypt::Strace;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/reencrypt';
mkdir $tmp, 0700;
my $marker = 'MARKER-reencrypt-51c7';
my $kek_a = 'file:' . kek_file("$tmp/kek_a");
my $kek_b = 'file:' . kek_file("$tmp/kek_b");

my $node = Walcrypt::Node->new('one');
$node->init(allows_streaming => 1, extra => ['-k']);
$node->append_conf('postgresql.conf', "wal_keep_size = '64MB'\nmax_prepared_transactions = 2\nshared_preload_libraries = 'auto_explain'\n");
$node->start;
contents_make($node, $marker, "$tmp/space");
# large enough to be worked on by several threads
my $large = q{SELECT count(*), sum(hashtext(body)) FROM };
$node->safe_psql('postgres', qq{
	CREATE TABLE large$_ (id int, body text) WITH (autovacuum_enabled = off);
	ALTER TABLE large$_ ALTER body SET STORAGE plain;
	INSERT INTO large$_ SELECT i, repeat(md5(i::text), 240) FROM generate_series(1, 9000) i;
}) for 1, 2;
$node->safe_psql('postgres', join(' ', map { "CREATE TABLE many$_ TABLESPACE elsewhere AS SELECT $_ AS i;" } 1 .. 100));
my $large_sums = join(' ', map { $node->safe_psql('postgres', "$large large$_") } 1, 2);
$node->safe_psql('postgres', 'SELECT pg_switch_wal()') for 1 .. 3;
my $sums = contents_sums($node);
my $dir = $node->data_dir;
my $system = $node->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()');
my $filenode = $node->safe_psql('postgres', "SELECT pg_relation_filepath('heap')");
my @large = map { $node->safe_psql('postgres', "SELECT pg_relation_filepath('large$_')") } 1, 2;

sub write_file
{
	my ($path, $text, $mode) = @_;
	open(my $f, '>', $path) or die "$path: $!";
	print $f $text;
	close $f;
	chmod($mode // 0600, $path);
	return $path;
}
my $conf = write_file("$tmp/w.ini", "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek a]\nuri = $kek_a\n[kek b]\nuri = $kek_b\n"
	  . "[node blue]\nkeyset = blue\nkek = b\n[node green]\nkeyset = green\nkek = b\n");
my @conf = ('--config', $conf);
ctl(qw(key init blue), @conf, '--system-identifier', $system);
ctl(qw(key init green --kek b), @conf, '--system-identifier', '7000000000000000001');

# Bytes of all files that a re-encryption is about, to see that nothing was changed.
sub state_of
{
	my ($dir) = @_;
	return `cd $dir && find -L . -type f ! -name postmaster.pid | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum` . join(' ', glob("$dir/pg_reencrypt*"));
}
sub refused
{
	my ($status, $words, $name, @args) = @_;
	my $before = state_of($dir);
	my ($rc, undef, $err) = ctl_output('reencrypt', '-D', $dir, @args);
	is($rc, $status, "$name: exit status");
	like($err, $words, "$name: message");
	is(state_of($dir), $before, "$name: nothing changed");
	return;
}

# what is refused
{
	my ($rc, undef, $err) = ctl_output('reencrypt', '-D', $dir, '--to', 'new', '--to-kek', $kek_a);
	is($rc, 6, 'a running server');
	like($err, qr/a server runs in data directory.*\nHINT:  Stop it first/s, '... is said');
}
$node->stop('immediate');
refused(6, qr/was not shut down cleanly: its state is "in production"/, 'after a crash', '--to', 'new', '--to-kek', $kek_a);
$node->start;
$sums = contents_sums($node);
$node->stop;
refused(2, qr/--to is missing/, 'no keyset');
refused(2, qr/no cluster key is named/, 'no cluster key', '--to', 'new');
refused(4, qr/could not open cluster key file/, 'no such cluster key', '--to', 'new', '--to-kek', "file:$tmp/none");
refused(2, qr/there is no keyset "grey".*\nHINT:  It has (?:blue, green|green, blue)\./, 'no such keyset', '--to', 'grey', @conf);
refused(6, qr/belong to another cluster/, 'the keyset of another cluster', '--to', 'green', @conf);
refused(5, qr/wrong cluster key/, 'another cluster key', '--to', 'blue', @conf, '--to-kek', $kek_a);
refused(6, qr/is clear already/, 'clear to clear', '--to', 'none');
refused(6, qr/there is nothing to resume/, 'nothing to resume', '--resume');
refused(2, qr/is not AES128/, 'an unknown method', '--to', 'new', '--to-kek', $kek_a, '-K', 'DES');
refused(2, qr/--method goes with --to=new/, 'a method for a keyset', '--to', 'blue', @conf, '-K', 'AES128');
link("$dir/$filenode", "$tmp/second_link") or die;
refused(6, qr/"\Q$dir\E\/\Q$filenode\E" has 2 hard links\nHINT:  Another directory/, 'a hard link', '--to', 'new', '--to-kek', $kek_a);
SKIP: {
	# WAL that cannot be read: the first read behind those up to where the hard link is seen
	skip_without_strace(3);
	my $reencrypt = sub {
		IPC::Run::run([ 'strace', '-q', '-o', "$tmp/strace", '-e', 'trace=pread64', @_, $Walcrypt::ctl, 'reencrypt', '-D', $dir, '--to', 'new', '--to-kek', $kek_a ],
			'<', \undef, '>', \my $out, '2>', \my $err);
		return ($? >> 8, $err);
	};
	$reencrypt->();
	my $first = 1 + (() = slurp_file("$tmp/strace") =~ /^pread64\(/mg);
	unlink "$tmp/second_link";
	my $before = state_of($dir);
	my ($rc, $err) = $reencrypt->('-e', "inject=pread64:error=EIO:when=$first");
	is($rc, 1, 'WAL that cannot be read: exit status');
	like($err, qr/^ERROR:  could not read file "\Q$dir\E\/pg_wal\/[0-9A-F]{24}": Input\/output error$/m, '... is said');
	is(state_of($dir), $before, '... before anything is changed');
}
unlink "$tmp/second_link";
{
	write_file("$dir/pg_wal/pgsql_tmp_walcrypt.journal", 'x');
	refused(6, qr/a WAL page .* was being changed/, 'a page journal', '--to', 'new', '--to-kek', $kek_a);
	unlink "$dir/pg_wal/pgsql_tmp_walcrypt.journal";
}
{
	system_or_bail('gcc', '-shared', '-fPIC', '-D_GNU_SOURCE', '-o', "$tmp/little_space.so", "$FindBin::RealBin/../preload/little_space.c");
	for my $i (1 .. 4) { open(my $f, '>', "$dir/base/1/90000.$i") or die; truncate($f, 1024**3); close $f; }
	local $ENV{LD_PRELOAD} = "$tmp/little_space.so";
	refused(6, qr/too little free space on the file system of .*\nDETAIL:  4 files may be written at once, which takes 4\.[0-5] GB; 3\.0 GB is free/, 'too little disk', '--to', 'new', '--to-kek', $kek_a, '-j', 4);
	unlink glob("$dir/base/1/90000.*");
}
{
	my $nosums = Walcrypt::Node->new('nosums');
	$nosums->init(extra => [ postgres_major() >= 18 ? '--no-data-checksums' : () ]);
	my ($rc, undef, $err) = ctl_output('reencrypt', '-D', $nosums->data_dir, '--to', 'new', '--to-kek', $kek_a);
	is($rc, 6, 'no data checksums');
	like($err, qr/has no data checksums.*--allow-no-checksums/s, '... is said');
	($rc) = ctl_output('reencrypt', '-D', $nosums->data_dir, '--to', 'new', '--to-kek', $kek_a, '--allow-no-checksums');
	is($rc, 0, '... and can be insisted on');
	# postgresql.conf elsewhere, as Debian has it
	my $elsewhere = "$tmp/postgresql.conf";
	rename($nosums->data_dir . '/postgresql.conf', $elsewhere) or die;
	my @args = ('-D', $nosums->data_dir, '--to', 'none', '--kek', $kek_a, '--allow-no-checksums');
	($rc, undef, $err) = ctl_output('reencrypt', @args);
	is($rc, 1, 'no postgresql.conf');
	like($err, qr/HINT:  If postgresql\.conf is not in the data directory, give --server-config FILE\./, '... what to do is said');
	ok(!-e $nosums->data_dir . '/pg_reencrypt', '... nothing was begun');
	($rc, undef, $err) = ctl_output('reencrypt', @args, '--server-config', $elsewhere);
	is($rc, 0, '... and with it it goes') or diag($err);
	# its server, started by pg_ctlcluster, has left word where it is
	open(my $opts, '>', $nosums->data_dir . '/postmaster.opts') or die;
	print $opts qq(/usr/lib/postgresql/15/bin/postgres "-D" "/nowhere" "-c" "config_file=$elsewhere.before" "-c" "config_file=$elsewhere"\n);
	close $opts;
	($rc, my $out, $err) = ctl_output('reencrypt', '-D', $nosums->data_dir, '--to', 'new', '--to-kek', $kek_a, '--allow-no-checksums');
	is($rc, 0, '... and back, found by postmaster.opts') or diag($err);
	like($out, qr/no postgresql\.conf in it.*pg_ctlcluster/s, '... to be started as such a cluster is');
	rename($elsewhere, $nosums->data_dir . '/postgresql.conf') or die;
	$nosums->use_layer($kek_a)->start;
	is($nosums->safe_psql('postgres', 'SELECT 1'), '1', '... it runs');
	$nosums->stop;
}
{
	my ($rc, undef, $err) = ctl_output('reencrypt', '-D', $tmp, '--to', 'new', '--to-kek', $kek_a);
	isnt($rc, 0, 'no data directory');
}

# leftovers of a crash that a clean start would remove: they must not stay in clear
my ($base) = $filenode =~ m{^(base/\d+)/};
mkdir "$dir/base/pgsql_tmp";
write_file("$dir/base/pgsql_tmp/pgsql_tmp1.0", $marker);
write_file("$dir/pg_wal/xlogtemp.99", $marker);
write_file("$dir/pg_stat/pg_stat_statements.stat", $marker);
mkdir "$dir/pg_replslot/gone";
write_file("$dir/pg_replslot/gone/xid-700-lsn-0-1000000.spill", $marker);
write_file("$dir/$base/t3_99999", $marker . 'x' x (8192 - length $marker));
cmp_ok(scalar(my @init = glob("$dir/base/*/pg_internal.init")), '>', 0, '(there are caches of the catalogs)');
cmp_ok(scalar files_containing($marker, $dir), '>', 5, '(the marker is all over the clear directory)');

# Everything about a directory under keys.
my $round = 0;
sub encrypted_well
{
	my ($name, $kek, $old_kek) = @_;
	is(join(' ', files_containing($marker, $dir)), '', "$name: the marker is nowhere");
	my %wal = encrypted_wal_files("$dir/pg_wal");
	is(join(' ', grep { $wal{$_} !~ /^(encrypted|empty)$/ } sort keys %wal), '', "$name: no WAL is clear");
	cmp_ok(scalar(grep { $_ eq 'encrypted' } values %wal), '>=', 1, "$name: and some is encrypted");
	ok(!-e "$dir/pg_reencrypt", "$name: nothing of the re-encryption is left");
	is(join(' ', `find -L $dir -name '*.walcrypt-*'`), '', "$name: and no file of it");
	my ($rc, $out) = ctl_output('verify', '-D', $dir, '--kek', $kek);
	is($rc, 0, "$name: verify is clean") or diag($out);
	like(`PGDATA=$dir $Walcrypt::ctl exec -D $dir --kek $kek -- pg_checksums -c 2>&1`, qr/Bad checksums:\s+0/, "$name: pg_checksums is content");
	if (defined $old_kek) {
		($rc) = ctl_output('verify', '-D', $dir, '--kek', $old_kek);
		is($rc, 5, "$name: the old cluster key opens nothing");
	}
	# a stock server must not start
	my $log = "$tmp/log" . ++$round;
	isnt(system("pg_ctl -D $dir -l $log -w -t 20 start >/dev/null 2>&1"), 0, "$name: a stock server does not start");
	$node->use_layer($kek)->start;
	is($node->safe_psql('postgres', 'SHOW shared_preload_libraries') =~ tr/,//, 1, "$name: the guard stands behind the library that was there");
	is(contents_sums($node), $sums, "$name: the same rows");
	is(join(' ', map { $node->safe_psql('postgres', "$large large$_") } 1, 2), $large_sums, "$name: and those of large tables");
	contents_sound($node, $name);
	$node->safe_psql('postgres', "INSERT INTO heap SELECT i, '$marker again ' || i, i % 97 FROM generate_series($round * 10000, $round * 10000 + 100) i");
	$node->stop('immediate');
	$node->start;
	$sums = contents_sums($node);
	$node->check_integrity("$name: after a crash");
	return;
}

# Relation and WAL files by their inodes.
sub inodes
{
	return map { my @st = stat; ("$st[0]:$st[1]" => $_) } grep { -s } glob("$dir/$base/[0-9]* $dir/global/[0-9]* $tmp/space/*/*/[0-9]* $dir/pg_wal/0*");
}
# What one reads who has had the file open all the time; all zeros are nothing.
sub held_read { my ($f) = @_; seek($f, 0, 0); local $/; my $data = <$f>; return $data =~ /[^\0]/ ? Digest::SHA::sha256($data) : ''; }
my %was = inodes();
my %held = map { open(my $f, '<:raw', $was{$_}) or die; ($_ => $f) } keys %was;
my %read = map { $_ => held_read($held{$_}) } keys %held;

# clear -> keys of its own
my ($rc, $out, $err) = ctl_output('reencrypt', '-D', $dir, '--to', 'new', '--to-kek', $kek_a, '--jobs', 1);
is($rc, 3, 'clear -> new: exit status 3 for the leftover that is no page') or diag($err);
like($out, qr{^\Q$base\E/t3_99999: 1 pages were damaged before, the first is block 0; carried over as they are$}m, '... which is said');
like($out, qr/^Re-encrypted \d+ files, .*\nThe directory was:    clear\nThe directory is now: AES256: relation key \w{16}, .*\nWAL files: re-encrypted, too\./m, '... and what was done');
like($out, qr/walcrypt-ctl exec -D \Q$dir\E --kek \Q$kek_a\E -- pg_ctl -l \Q$dir\E\.log start/, '... and how to start');
like($err, qr{re-encrypting: [\d.]+ [MG]B in [\d.]+ s, [\d.]+ [MG]B/s}, '... and its rate');
{
	# most old files were written over, each as another one of its folder
	my %now = inodes();
	my @over = grep { $now{$_} } keys %was;
	cmp_ok(scalar @over, '>', keys(%was) / 2, '... most old files were not removed, but became new ones');
	is(join(' ', grep { ($now{$_} =~ m{^(.*)/})[0] ne ($was{$_} =~ m{^(.*)/})[0] } @over), '', '... of the same folder');
	is(join(' ', map { $was{$_} } grep { $read{$_} ne '' && held_read($held{$_}) eq $read{$_} } @over), '', '... and what they held is gone');
	ok((grep { $was{$_} eq "$dir/$large[0]" || $was{$_} eq "$dir/$large[1]" } @over), '... a large one, too');
	ok((grep { $was{$_} =~ m{^\Q$tmp\E/space/} } @over), '... and in the tablespace');
	close $_ for values %held;
}
ok(!-e "$dir/base/pgsql_tmp/pgsql_tmp1.0" && !-e "$dir/pg_wal/xlogtemp.99" && !glob("$dir/base/*/pg_internal.init"), '... leftovers and caches are gone');
my @generations = map { ctl('wal', $_) =~ /: encrypted, .*, generation ([0-9a-f]{8})(?:,|$)/m ? $1 : () } grep { m{/[0-9A-F]{24}$} } glob("$dir/pg_wal/*");
cmp_ok(scalar @generations, '>=', 2, '... each WAL file is under one generation');
is(scalar keys %{ { map { $_ => 1 } @generations } }, scalar @generations, '... of its own (W5)');
is(join(' ', grep { hex($_) & 0x80000000 } @generations), '', '... and a server\'s, not a proxy\'s');
unlink "$dir/$base/t3_99999";
rmdir "$dir/pg_replslot/gone";
encrypted_well('clear -> new', $kek_a);

# the independent decoder reads a page and the WAL
sub decode
{
	my ($kek, @args) = @_;
	my ($o, $e) = ('', '');
	IPC::Run::run([ 'python3', '-B', 'tests/decoder/decoder.py', $args[0], '--key-dir', "$dir/pg_cryptokeys", '--kek-file', $kek =~ s/^file://r, @args[1 .. $#args] ], '<', \undef, '>', \$o, '2>', \$e);
	return ($? >> 8, $o, $e);
}
sub decoded_well
{
	my ($name, $kek) = @_;
	my ($db, $rel) = $filenode =~ m{^base/(\d+)/(\d+)$};
	my ($rc, $o, $e) = decode($kek, 'page', '--db', $db, '--rel', $rel, '--fork', 'main', '--block', 3, "$dir/$filenode");
	like($e, qr/checksum holds/, "$name: the independent decoder reads a page");
	like($o, qr/$marker/, "$name: with its rows");
	my @found = grep { (decode($kek, 'wal', $_))[1] =~ /$marker/ } grep { m{/[0-9A-F]{24}$} } glob("$dir/pg_wal/*");
	cmp_ok(scalar @found, '>', 0, "$name: and rows in WAL");
	return;
}
decoded_well('clear -> new', $kek_a);
my $key_dir_a = "$tmp/keys_a";
system('cp', '-rp', "$dir/pg_cryptokeys", $key_dir_a);

# another relation key, the same WAL key
my %wal_before = map { $_ => slurp_from($_) } grep { m{/[0-9A-F]{24}$} } glob("$dir/pg_wal/*");
($rc, $out, $err) = ctl_output('reencrypt', '-D', $dir, '--to', 'new', '--kek', $kek_a);
is($rc, 0, 'new -> new') or diag($err);
like($out, qr/WAL files: as they were, the WAL key is the same/, '... WAL is as it was');
is(scalar(grep { slurp_from($_) ne $wal_before{$_} } keys %wal_before), 0, '... to the byte');
isnt((ctl('key', 'show', '-D', $dir) =~ /^relation key +(\w+)/m)[0], (ctl('key', 'show', '--key-dir', $key_dir_a) =~ /^relation key +(\w+)/m)[0], '... the relation key is another one');
encrypted_well('new -> new', $kek_a);

# a keyset of the keystore, with a WAL key of its own
{
	local $ENV{WALCRYPT_KEK} = $kek_a;
	($rc, $out, $err) = ctl_output('reencrypt', '-D', $dir, '--to', 'blue', @conf, '-j', 2);
}
is($rc, 0, 'new -> blue: its cluster key comes from the configuration') or diag($err);
like($out, qr/exec -D \S+ --config \Q$conf\E --kek b -- pg_ctl/, '... and is named for the start');
encrypted_well('new -> blue', $kek_b, $kek_a);
decoded_well('new -> blue', $kek_b);
# the guard in the words of ALTER SYSTEM
$node->start;
$node->safe_psql('postgres', "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', '$Walcrypt::layer'");
$node->stop;
is((ctl('key', 'show', '-D', $dir) =~ /^relation key +(\w+)/m)[0], (ctl('key', 'show', 'blue', @conf) =~ /^relation key +(\w+)/m)[0], 'new -> blue: the keys are those of the keystore');
# the old key set, opened, decrypts nothing of it
rename("$dir/pg_cryptokeys", "$tmp/keys_blue") or die;
system('cp', '-rp', $key_dir_a, "$dir/pg_cryptokeys");
($rc, $out) = ctl_output('verify', '-D', $dir, '--kek', $kek_a);
is($rc, 3, 'new -> blue: with the old keys put back every page is damaged');
my ($pages, $empty) = $out =~ /, (\d+) pages, (\d+) of them empty/;
my $bad = 0;
$bad += defined $2 ? $2 - $1 + 1 : 1 while $out =~ /: blocks? (\d+)(?: to (\d+))? of the \w+ fork (?:is|are) damaged/g;
is($bad, $pages - $empty, '... every one');
refused(6, qr/block 0 of ".*" is damaged, or under another key/, 'keys that are not the pages\' keys', '--to', 'none', '--kek', $kek_a);
system('rm', '-rf', "$dir/pg_cryptokeys");
refused(6, qr/holds encrypted WAL, but the data directory has no keys.*restore its pg_cryptokeys/s, 'an encrypted directory without its keys', '--to', 'new', '--to-kek', $kek_a);
rename("$tmp/keys_blue", "$dir/pg_cryptokeys") or die;
refused(6, qr/is under relation key \w{16} already/, 'to the keys that it has', '--to', 'blue', @conf, '--kek', $kek_b);

# back to clear
($rc, $out, $err) = ctl_output('reencrypt', '-D', $dir, '--to', 'none', '--kek', $kek_b);
is($rc, 0, 'blue -> clear') or diag($err);
unlike($out, qr/walcrypt-ctl exec|still names/, '... a stock server starts on it');
ok(!-e "$dir/pg_cryptokeys", '... there are no keys any more');
unlike(slurp_from("$dir/postgresql.auto.conf"), qr/walcrypt/, '... and no guard');
like(slurp_from("$dir/postgresql.auto.conf"), qr/^shared_preload_libraries = 'auto_explain'$/m, '... but what was beside it');
cmp_ok(scalar files_containing($marker, "$dir/base"), '>', 0, '... the marker is back');
like(`pg_checksums -c -D $dir 2>&1`, qr/Bad checksums:\s+0/, '... stock pg_checksums is content');
my %wal = encrypted_wal_files("$dir/pg_wal");
is(join(' ', grep { $_ eq 'encrypted' || $_ eq 'mixed' } values %wal), '', '... all WAL is clear');
$node->use_layer(undef)->start;
is($node->safe_psql('postgres', 'SHOW shared_preload_libraries'), 'auto_explain', '... its own libraries are as they were');
is(contents_sums($node), $sums, '... the same rows');
contents_sound($node, 'clear');
$node->stop;

# a page that is damaged stays so, is named, and nothing stops for it
copy("$dir/$filenode", "$tmp/keep");
open(my $f, '+<:raw', "$dir/$filenode") or die;
seek($f, 2 * 8192 + 5000, 0);
print $f "\x5a\xa5";
close $f;
my @blocks = (8000, 4100, 1);
my $was = slurp_from("$dir/$large[0]");
open($f, '+<:raw', "$dir/$large[0]") or die;
for (@blocks) { seek($f, $_ * 8192 + 5000, 0); print $f "\x5a\xa5"; }
close $f;
($rc, $out) = ctl_output('reencrypt', '-D', $dir, '--to', 'new', '--to-kek', $kek_a);
is($rc, 3, 'a damaged page: exit status 3');
like($out, qr{^\Q$filenode\E: 1 pages were damaged before, the first is block 2; carried over}m, '... it is named');
like($out, qr{^\Q$large[0]\E: 3 pages were damaged before, the first is block 1; carried over}m, '... three of a large file, too');
($rc, $out) = ctl_output('verify', '-D', $dir, '--kek', $kek_a);
like($out, qr{^\Q$filenode\E: block 2 of the main fork is damaged: its checksum is }m, '... and damaged as before');
($rc) = ctl_output('reencrypt', '-D', $dir, '--to', 'none', '--kek', $kek_a);
is(slurp_from("$dir/$filenode") eq slurp_from("$tmp/keep") ? 'same' : 'other', 'other', '... back in clear');
open($f, '+<:raw', "$dir/$filenode") or die;
seek($f, 2 * 8192 + 5000, 0);
print $f substr(slurp_from("$tmp/keep"), 2 * 8192 + 5000, 2);
close $f;
ok(slurp_from("$dir/$filenode") eq slurp_from("$tmp/keep"), '... only the bytes that were damaged differ');
open($f, '+<:raw', "$dir/$large[0]") or die;
for (@blocks) { seek($f, $_ * 8192 + 5000, 0); print $f substr($was, $_ * 8192 + 5000, 2); }
close $f;
ok(slurp_from("$dir/$large[0]") eq $was, '... in the large file, too');

# a primary that was moved away from comes back: encrypted offline, it follows the promoted standby
my $red = $node;
$red->start;
my $proxy = Walcrypt::Proxy->new(nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->key_init('red');
$proxy->start;
my $blue = Walcrypt::Node->new('blue');
mkdir "$tmp/space_blue";
$blue->init_from_proxy($proxy, 'blue', extra => [ '-T', "$tmp/space=$tmp/space_blue" ]);
$blue->start;
$blue->take_over($red);
$blue->safe_psql('postgres', "INSERT INTO heap SELECT i, '$marker after ' || i, i % 97 FROM generate_series(900000, 900500) i");
($rc, $out, $err) = ctl_output('reencrypt', '-D', $dir, '--to', 'red', '--config', $proxy->conf);
is($rc, 0, 'the old primary is re-encrypted') or diag($err);
is((ctl('key', 'show', '-D', $dir) =~ /epoch 1 +(\w+)/)[0], (ctl('key', 'show', '-D', $blue->data_dir) =~ /epoch 1 +(\w+)/)[0], '... it shares the WAL key');
isnt((ctl('key', 'show', '-D', $dir) =~ /^relation key +(\w+)/m)[0], (ctl('key', 'show', '-D', $blue->data_dir) =~ /^relation key +(\w+)/m)[0], '... and not the relation key');
$red->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $blue->connstr . " application_name=red'\nrecovery_target_timeline = 'latest'\n");
$red->set_standby_mode;
$red->use_layer($proxy->kek_uri)->start;
$blue->wait_for_catchup('red', 'replay', $blue->lsn('insert'));
is(contents_sums($red), contents_sums($blue) =~ s/ unlogged:\d+//gr, '... it follows the new primary, with every row');
is($red->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', '... as a standby');
$_->safe_psql('postgres', 'CHECKPOINT') for $blue, $red;
is(join(' ', files_containing($marker, $dir)), '', '... and nothing of it is clear');
my @alike = grep { -s && -s $blue->data_dir . "/$_" && slurp_from("$dir/$_") eq slurp_from($blue->data_dir . "/$_") } map { s{^\Q$dir\E/}{}r } grep { m{/\d+$} && -s } glob("$dir/base/1/*");
is(scalar @alike, 0, '... no relation file is the same on both');
# a standby that was stopped can be re-encrypted, too, and follows on
$red->stop;
($rc, $out, $err) = ctl_output('reencrypt', '-D', $dir, '--to', 'new', '--kek', $proxy->kek_uri);
is($rc, 0, 'a stopped standby under another relation key') or diag($err);
$blue->safe_psql('postgres', "INSERT INTO heap SELECT i, '$marker last ' || i, i % 97 FROM generate_series(910000, 910100) i");
$red->start;
$blue->wait_for_catchup('red', 'replay', $blue->lsn('insert'));
is(contents_sums($red), contents_sums($blue) =~ s/ unlogged:\d+//gr, '... follows on');
$red->stop;
($rc, $out) = ctl_output('verify', '-D', $dir, '--kek', $proxy->kek_uri);
is($rc, 0, '... verify is clean') or diag($out);
$blue->stop;
done_testing();
