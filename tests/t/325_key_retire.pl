# key retire and key destroy: what is needed stays. WAL in data directories, archives and base backups, standbys that the proxy serves and
# keysets without a later epoch keep an epoch; nodes, backups and standbys keep a keyset; wrapped keys keep a cluster key. What goes at
# last goes for good, and the servers run on.
use strict;
use warnings;
use Cwd ();
use File::Path qw(make_path);
use FindBin;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Strace;
use Walcrypt::Terminal;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/retire';
mkdir $_, 0700 for $tmp, "$tmp/archive", "$tmp/packed", "$tmp/empty";
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->append_conf('postgresql.conf', "wal_keep_size = 256MB\n");
$red->start;
$red->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 5000) AS i');
my %node = map { $_ => Walcrypt::Node->new($_) } qw(blue green);
my $proxy = Walcrypt::Proxy->new(nodes => {
	red => { conninfo => $red->connstr_for_proxy },
	(map { $_ => { conninfo => $node{$_}->connstr_for_proxy, keyset => $_, datadir => $node{$_}->data_dir } } keys %node) });
my @conf = ('--config', $proxy->conf);
my $kek  = $proxy->kek_uri;
$proxy->key_init($_) for qw(blue green);
$proxy->start;

sub epochs { my (@which) = @_; return join(' ', map { "$_->{number}" } @{ decode_json(ctl(qw(key show --json), @which, @conf))->{epochs} }); }
sub reload { my ($n) = @_; kill('HUP', $proxy->pid); wait_for('the proxy to read its keystore again', sub { $proxy->console('SHOW NODES') =~ /^blue\|.*\|$n\|/m }); return; }

sub refused
{
	my ($status, $expected, $name, @args) = @_;
	my ($rc, $out, $err) = ctl_output(@args, @conf);
	is($rc, $status, "$name: exit status");
	like($err, $expected, "$name: message");
	return $out;
}

# how many WAL files of a folder have a page of an epoch, read without our code
sub with_epoch
{
	my ($dir, $epoch) = @_;
	my $n = 0;
	for my $path (grep { m{/[0-9A-F]{24}$} } glob("$dir/*")) {
		open(my $f, '<:raw', $path) or next;
		my $found = 0;
		while (!$found && read($f, my $page, 8192) == 8192) {
			my ($magic, $info) = unpack('S<S<', $page);
			$found = ($magic >> 8) == 0xD1 && $info & 0x8000 && (($info >> 8) & 127) == $epoch;
		}
		$n += $found;
	}
	return $n;
}

# two standbys, a base backup from the time of epoch 1, an archived segment; then a promotion to epoch 2
for my $name (qw(blue green)) {
	$node{$name}->init_from_proxy($proxy, $name);
	$node{$name}->append_conf('postgresql.auto.conf', "wal_retrieve_retry_interval = 300ms\nmin_wal_size = 32MB\nmax_wal_size = 32MB\nwal_keep_size = 0\n");
	$node{$name}->start;
}
my $base = "$tmp/basebackup";
system_or_bail('pg_basebackup', '-D', $base, '-d', $proxy->connstr('blue'), '--checkpoint=fast', '--no-sync');
refused(6, qr/epoch 1 is needed\nDETAIL:  It is the newest/i, 'the only epoch', qw(key retire blue --epoch 1));
ctl(qw(key new-epoch blue green), @conf);
$node{$_}->restart for qw(blue green);
reload(2);
refused(6, qr/epoch 1 is needed\nDETAIL:  WAL of the present timeline 1 is written under it/, 'before the promotion', qw(key retire blue --epoch 1));
refused(6, qr/epoch 2 is needed\nDETAIL:  it is the newest/, 'the one that is staged', qw(key retire blue --epoch 2));
$red->wait_for_catchup($_) for qw(blue green);
my ($one) = grep { m{/00000001[0-9A-F]{16}$} } glob($node{blue}->data_dir . '/pg_wal/*');
system_or_bail('cp', $one, "$tmp/archive/");
system_or_bail('gzip', '-k', "$tmp/archive/" . ($one =~ s{.*/}{}r));
rename($_, "$tmp/packed/" . s{.*/}{}r) for glob("$tmp/archive/*.gz");
$red->stop;
$node{blue}->promote;
$node{blue}->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
$node{blue}->wait_for_catchup('green');

# the old epoch's WAL is still there
my $out = ctl(qw(key retire blue), @conf);
like($out, qr/^looked at: \d+ WAL files\nWAL key epoch 1, \w{16}: \d+ WAL files have pages under it, for example \S+pg_wal\S+\nWAL key epoch 2, \w{16}: it is the newest$/m, 'key retire tells');
refused(6, qr/\nDETAIL:  \d+ WAL files have pages under it, for example/, 'WAL in data directories', qw(key retire blue --epoch 1));
wait_for('epoch 1 to leave pg_wal', sub {
	# a checkpoint only when green has what it removes
	$node{blue}->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 20000); SELECT pg_switch_wal()');
	$node{blue}->wait_for_catchup('green');
	$node{blue}->safe_psql('postgres', 'CHECKPOINT');
	$node{green}->safe_psql('postgres', 'CHECKPOINT');
	return !with_epoch($node{blue}->data_dir . '/pg_wal', 1) && !with_epoch($node{green}->data_dir . '/pg_wal', 1);
});
like(ctl(qw(key retire green), @conf), qr/^WAL key epoch 1, \w{16}: nothing that was looked at needs it$/m, 'when it is gone, nothing needs it');
refused(6, qr/DETAIL:  1 WAL files have pages under it, for example \S+archive/, 'WAL in an archive', qw(key retire blue --epoch 1), "$tmp/archive");
{
	my ($file) = map { Cwd::realpath($_) } glob("$tmp/archive/*");
	system_or_bail('gcc', '-shared', '-fPIC', '-D_GNU_SOURCE', '-o', "$tmp/bad_disk.so", "$FindBin::RealBin/../preload/bad_disk.c", '-ldl');
	local ($ENV{LD_PRELOAD}, $ENV{BAD_DISK}) = ("$tmp/bad_disk.so", $file);
	refused(1, qr/could not read file "\Q$file\E": Input\/output error/, 'WAL that cannot be read', qw(key retire blue --epoch 1), "$tmp/archive");
}
refused(6, qr/DETAIL:  \d+ WAL files have pages under it, for example \S+basebackup/, 'WAL in a base backup', qw(key retire blue --epoch 1), "$tmp/empty", $base);
make_path("$tmp/deep/" . join('/', 1 .. 9));
refused(6, qr/folder "[^"]*deep[^"]*" lies too deep to be looked through\nHINT:  Does a symbolic link lead back/, 'a folder that is not looked at to its end', qw(key retire blue --epoch 1), "$tmp/deep");
like(refused(6, qr/1 places could not be looked at\nHINT:  .*--yes/, 'a packed archive', qw(key retire blue --epoch 1), "$tmp/packed"), qr/^not looked at: 1 packed files, for example \S+\.gz$/m, '... is said');
refused(1, qr/could not look into/, 'a folder that is not there', qw(key retire blue --epoch 1), "$tmp/none");
refused(2, qr/there is no WAL key epoch 7/, 'an unknown epoch', qw(key retire blue --epoch 7));

# a standby on an earlier timeline; a keyset that has no later epoch
ctl(qw(key new-epoch blue green), @conf);
refused(6, qr/DETAIL:  a standby streams timeline 2 through the proxy/, 'a standby that streams under it', qw(key retire blue --epoch 2 --timeline 3));
$proxy->key_init('spare', '--wal-key-of', 'blue');
is(epochs('spare'), '1 2 3', 'a further keyset has them all');
system('cp', '-rp', $proxy->keystore . '/spare', "$tmp/spare");
# a keyset as old as the first epoch: made in a keystore of its own from the old base backup's keys, which has epoch 1 alone
system('cp', '-rp', "$base/pg_cryptokeys", $proxy->keystore . '/late') == 0 or die;
refused(6, qr/DETAIL:  keyset "late" has no later one/, 'a keyset that has no later one', qw(key retire blue --epoch 1));
system('rm', '-r', $proxy->keystore . '/late');

# somebody who cannot be asked
{
	my $port = $proxy->{port};
	local $proxy->{nodes}{far} = { keyset => 'spare', datadir => '/nonexistent/far' };
	$proxy->write_conf;
	like(refused(6, qr/1 places could not be looked at/, 'a node elsewhere', qw(key retire blue --epoch 1)), qr/^not looked at: node "far", whose data directory is not on this machine$/m, '... is named');
}
$proxy->write_conf;
like(ctl(qw(key retire blue --epoch 1 --dry-run), @conf), qr/would be taken away\. Nothing was changed/, 'a dry run');
is(epochs('blue'), '1 2 3', '... changes nothing');
$out = ctl(qw(key retire blue --epoch 1), @conf);
is(scalar(() = $out =~ /epoch 1 is gone/g), 5, 'three keysets and two data directories') or diag $out;
is(epochs($_), '2 3', "$_ lacks it now") for qw(blue green spare);
is(epochs('-D', $node{$_}->data_dir), '2 3', "... and its data directory") for qw(blue green);
reload(3);
$node{$_}->restart for qw(blue green);
$node{blue}->safe_psql('postgres', 'INSERT INTO t VALUES (2)');
$node{blue}->wait_for_catchup('green');
is($node{green}->safe_psql('postgres', 'SELECT count(*) FROM t'), $node{blue}->safe_psql('postgres', 'SELECT count(*) FROM t'), 'all goes on without it');
my ($rc, undef, $said) = ctl_output('verify', '-D', $node{green}->data_dir, '--kek', $kek);
is($rc, 0, '... and verifies clean') or diag $said;
my ($psql) = (PostgreSQL::Test::Utils::run_command([ 'psql', '-X', '-d', $proxy->connstr('green') . ' replication=true dbname=replication', '-c', 'START_REPLICATION PHYSICAL 0/1000000 TIMELINE 1' ]))[1];
like($psql, qr/has no WAL key for timeline 1.*was retired/s, 'who asks for its timeline is told');

# key destroy: a keyset that is needed
$out = refused(6, qr/keyset "green", relation key \w{16} is needed\nHINT:  --force/, 'a keyset in use', qw(key destroy green));
like($out, qr/^needed by node green$/m, 'the node');
like($out, qr/^needed by the key directory \S+green\S+pg_cryptokeys$/m, '... its data directory');
like($out, qr/^needed by a standby that the proxy serves: green$/m, '... and the proxy\'s standby need it');
my $id = decode_json(ctl(qw(key show --json blue), @conf))->{relation_id};
my $pattern = qr/Type \w+ to do it: $/;
$out = refused(6, qr/is needed/, 'a backup', qw(key destroy blue), $base);
like($out, qr/^needed by the key directory \S+basebackup\S*$/m, 'its base backup is named');
like($out, qr/^needed by the backup of \S+backup_manifest$/m, '... by its manifest, too');
like(ctl(qw(key destroy blue --dry-run), @conf), qr/things need it\. Nothing was changed/, 'a dry run');
refused(6, qr/there is no terminal to confirm it on\nHINT:  Run it where somebody can type "\w{16}"/, '--force without a terminal', qw(key destroy blue --force));
my ($status, $seen, $pout, $perr) = on_terminal([ [ $pattern, "yes\n" ] ], qw(key destroy blue --force), @conf);
is($status >> 8, 6, '--force, confirmed by another word');
like($perr, qr/not confirmed: nothing was changed/, '... is refused');
ok(-d $proxy->keystore . '/blue/live', '... and the keyset is there');

# one that is not; and one whose destruction was cut off
mkdir $proxy->keystore . '/.destroyed.spare';
system_or_bail('cp', '-rp', $proxy->keystore . '/spare/live', $proxy->keystore . '/.destroyed.spare/');
SKIP: {
	# what a folder holds cannot be told: no keyset is taken for gone, no key file for missing
	skip_without_strace(6);
	for ([ 'keystore', qw(destroy spare) ], [ 'keystore', 'list' ], [ 'key directory', qw(show spare) ]) {
		my ($what, @args) = @$_;
		IPC::Run::run([ 'strace', '-qq', '-o', "$tmp/trace", '-e', 'trace=getdents64', '-e', 'inject=getdents64:error=EIO', $Walcrypt::ctl, 'key', @args, @conf ],
			'<', \undef, '>', \my $o, '2>', \my $e);
		is($? >> 8, 1, "key @args: a $what that cannot be read");
		like($e, qr/^ERROR:  could not read $what "\S+": Input\/output error$/m, '... is said') or diag $o;
	}
}
my $spare = decode_json(ctl(qw(key show --json spare), @conf))->{relation_id};
($status, $seen, $pout, $perr) = on_terminal([ [ $pattern, "$spare\n" ] ], qw(key destroy spare), @conf);
is($status, 0, 'key destroy of one that nothing needs') or diag $perr;
like($seen, qr/This destroys keyset "spare", relation key $spare for good\. 0 known things need it/, '... asks');
like($pout, qr/^Destroyed keyset "spare"/m, '... and says so');
is(join(' ', grep { /spare/ } glob($proxy->keystore . '/* ' . $proxy->keystore . '/.*')), '', 'nothing of it is left');
unlike(ctl(qw(key list), @conf), qr/spare/, 'it is no longer listed');

# WAL whose key lies nowhere else
$proxy->key_init('lone', '--own-wal-key', '--system-identifier', decode_json(ctl(qw(key show --json blue), @conf))->{system_identifier});
mkdir "$tmp/lonearchive";
system_or_bail('cp', $one, "$tmp/lonearchive/") if -e $one;
system_or_bail('cp', glob("$tmp/archive/*"), "$tmp/lonearchive/");
like(refused(6, qr/is needed/, 'an archive', qw(key destroy lone), "$tmp/lonearchive"), qr/^needed by WAL whose key no other keyset has, such as \S+lonearchive/m, 'archived WAL under an epoch that no other keyset has');

# --force, and it is gone although it was needed
($status, $seen, $pout, $perr) = on_terminal([ [ $pattern, "$id\n" ] ], qw(key destroy blue --force), @conf);
is($status, 0, '--force, confirmed') or diag $perr;
ok(!-e $proxy->keystore . '/blue', '... destroys it');

# a cluster key: needed by what it wraps; destroyed where its provider can
refused(6, qr/cluster key \w{16} of file:\S+ is needed/, 'a cluster key in use', qw(key destroy --kek site));
my $keeper = "external:main:exec perl " . Cwd::getcwd() . "/conf/external/keeper.pl $tmp/keys";
ctl(qw(key alter lone --create-kek --new-kek), $keeper, @conf);
like(refused(6, qr/is needed/, 'one that a keyset is under', qw(key destroy --kek), $keeper), qr/^needed by keyset lone$/m, '... it is named');
ctl(qw(key alter lone --new-kek site --kek), $keeper, @conf);
refused(6, qr/there is no terminal/, 'now only somebody must confirm', qw(key destroy --kek), $keeper);
ok(-e "$tmp/keys/main", '... it is still there');
my (undef, $asked) = on_terminal([ [ $pattern, "no\n" ] ], qw(key destroy --kek), $keeper, @conf);
my ($kid) = $asked =~ /Type (\w{16}) to do it/;
($status, $seen, $pout, $perr) = on_terminal([ [ $pattern, "$kid\n" ] ], qw(key destroy --kek), $keeper, @conf);
is($status, 0, 'a cluster key that nothing is under') or diag $perr;
ok(!-e "$tmp/keys/main", '... the provider destroyed it');
ctl(qw(key alter --all --create-kek --kek site --new-kek), "file:$tmp/kek2", @conf);
$node{$_}->stop for qw(blue green);
is($proxy->stop, 0, 'the proxy stops in good order');
done_testing();
