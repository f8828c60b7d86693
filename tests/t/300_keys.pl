# Keys on the command line: making keysets, showing and repairing them, every error with its own exit status and its own words.
use strict;
use warnings;
use File::Copy qw(copy move);
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::KeyCommands;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/keys';
mkdir $tmp, 0700;

# help and usage
my ($rc, $out, $err) = ctl_output('--help');
is($rc, 0, '--help');
my @commands = $out =~ /^  ([a-z]+(?: [a-z-]+)?)\s{2,}\S/mg;
cmp_ok(scalar @commands, '>=', 9, 'it lists the commands');
for my $command (@commands) {
	($rc, $out, $err) = ctl_output(split(/ /, $command), '--help');
	is($rc, 0, "$command --help");
	like($out, qr/^Usage: walcrypt-ctl $command .*--config=FILE .*--help/s, '... shows usage and options');
	my (undef, undef, $bad) = ctl_output(split(/ /, $command), '--nonsense');
	like($bad, $command eq 'build' ? qr/name must come first/ : qr/unknown option --nonsense\nHINT:  Try "walcrypt-ctl $command --help"\./, "... and an unknown option is said");
	is((ctl_output('help', split(/ /, $command)))[1], $out, "help $command shows the same");
}
is((ctl_output('help'))[1], (ctl_output('--help'))[1], 'help shows what --help shows');
refused(2, qr/unknown command "frobnicate"/, 'help of an unknown command', 'help', 'frobnicate');
like(ctl('--version'), qr/^walcrypt-ctl \d+\.\d+\.\d+$/, '--version');
refused(2, qr/an argument is missing\nHINT:  Usage: walcrypt-ctl wal FILE.*Try "walcrypt-ctl wal --help"/s, 'no argument', 'wal');
refused(2, qr/no data directory is named\nHINT:  Give -D DIR/, 'a hint of its own stays', 'verify');
refused(2, qr/no command is given/, 'nothing');
refused(2, qr/unknown command "frobnicate"/, 'an unknown command', 'frobnicate');
refused(2, qr/unknown command "key"\nHINT:  There are "key init", "key list", "key show", /, 'half a command', 'key');

# the configuration file
my $main = "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n";
my $conf = put("$tmp/w.ini", $main . "[kek site]\nuri = file:$tmp/kek\n[kek other]\nuri = file:$tmp/kek2\n"
	  . "[node red]\nconninfo = host=$tmp port=1\nkeyset = none\n[node blue]\nkeyset = blue\nkek = site\n[node green]\nkeyset = green\nkek = other\n");
refused(2, qr/no cluster key is named/, 'no configuration', 'key', 'init', 'blue');
refused(2, qr{is not a key provider\nHINT:  If a file is meant: --kek file:/etc/kek$}m, 'a path for a provider', qw(key init blue --kek /etc/kek));
refused(1, qr/could not open configuration file/, 'a missing configuration', 'key', 'init', 'blue', '--config', "$tmp/none.ini");
chmod(0660, $conf);
refused(6, qr/may be written by others/, 'a configuration that others may write', 'key', 'init', 'blue', '--config', $conf);
{
	local $ENV{WALCRYPT_CONFIG} = $conf;
	refused(6, qr/may be written by others/, 'the same by WALCRYPT_CONFIG', 'key', 'init', 'blue');
}
chmod(0600, $conf);
put("$tmp/bad.ini", "$main\ncolour = blue\n");
refused(2, qr/bad\.ini:5: unknown setting "colour"/, 'an unknown setting', 'key', 'init', 'blue', '--config', "$tmp/bad.ini");

# key init
my @conf = ('--config', $conf);
my @sysid = ('--system-identifier', '7300000000000000001');
refused(4, qr/could not open cluster key file/, 'no cluster key yet', qw(key init blue), @conf, @sysid);
ok(!-e "$tmp/ks/blue", '... nothing is left behind');
refused(2, qr/there is no \[kek sight\] in .*\nHINT:  It has site, other\./, 'an unknown section', qw(key init blue --kek sight), @conf, @sysid);
refused(2, qr{there is no \[kek \./kek\] in .*\nHINT:  If a file is meant: --kek file:\./kek}, 'a path for a section', qw(key init blue --kek ./kek), @conf, @sysid);
refused(4, qr/could not ask node "red".*\nHINT:  Start it, or give --system-identifier/s, 'a primary that does not answer', qw(key init blue --create-kek), @conf);
ok(!-e "$tmp/kek", '... and no cluster key was made');
refused(2, qr/not a system identifier/, 'a bad system identifier', qw(key init blue --system-identifier 0x1), @conf);
refused(2, qr/not a name for a keyset/, 'a bad name', qw(key init ../blue), @conf, @sysid);
refused(2, qr/not a name for a keyset/, 'a name that means something else', qw(key init new), @conf, @sysid);
refused(2, qr/is not AES128/, 'a bad method', qw(key init blue --create-kek --method DES), @conf, @sysid);
$out = ctl(qw(key init blue), @conf, @sysid);
like($out, qr/Made keyset "blue", AES256: relation key ([0-9a-f]{16}), WAL key ([0-9a-f]{16}) \(epoch 1\)/, 'a keyset');
my ($blue_relation, $blue_wal) = $out =~ /relation key (\w+), WAL key (\w+)/;
refused(6, qr/keyset "blue" exists already/, 'again', qw(key init blue), @conf, @sysid);
$out = ctl(qw(key init green --create-kek), @conf, @sysid);
my ($green_relation, $green_wal) = $out =~ /relation key (\w+), WAL key (\w+)/;
isnt($green_relation, $blue_relation, 'the second keyset of the cluster has a relation key of its own');
is($green_wal, $blue_wal, '... and shares the WAL key, under another cluster key');
like($out, qr/WAL key is the one of keyset "blue"/, '... which is said');
$out = ctl(qw(key init violet -K aes128 --kek site --system-identifier 7300000000000000002), @conf);
my ($violet_wal) = $out =~ /WAL key (\w+)/;
isnt($violet_wal, $blue_wal, 'another cluster has another WAL key');
like($out, qr/AES128/, '... and its own method');
refused(6, qr/is for method AES128, not AES256/, 'another method in one cluster', qw(key init teal --kek site -K AES256 --system-identifier 7300000000000000002), @conf);
ok(!-e "$tmp/ks/teal", '... nothing is left behind');
refused(5, qr/the cluster's WAL key lies in keyset "violet": wrong cluster key/, 'the WAL key lies under another cluster key',
	qw(key init teal --kek other --system-identifier 7300000000000000002), @conf);
ok(!-e "$tmp/ks/teal", '... nothing is left behind');
my @st = stat("$tmp/ks/blue/live/wal.wkey");
is($st[2] & 0777, 0600, 'key files are ours alone');
is($st[7], 48, '... and CFE\'s size');
is((stat("$tmp/ks/blue/live"))[2] & 0777, 0700, '... and their folder');
is((stat("$tmp/kek2"))[2] & 0777, 0600, 'so is a cluster key file that we made');

# two at once: one WAL key
my @both = map { IPC::Run::start([ $Walcrypt::ctl, qw(key init), $_, qw(--kek site --system-identifier 7300000000000000003), @conf ], '>', \my $o, '2>', \my $e) } qw(twin_a twin_b);
$_->finish for @both;
my ($twin_a, $twin_b) = map { (ctl('key', 'show', $_, @conf) =~ /epoch 1 +(\w+)/)[0] } qw(twin_a twin_b);
is($twin_a, $twin_b, 'two keysets made at the same time share the WAL key');

# key show needs no key
move("$tmp/kek", "$tmp/kek.away");
$out = ctl(qw(key show blue), @conf);
like($out, qr/relation key +$blue_relation\n.*epoch 1 +$blue_wal/s, 'key show');
$out = ctl(qw(key show blue --json), @conf);
like($out, qr/"relation_id": "$blue_relation"/, '... as JSON');
is(ctl('key', 'show', '--key-dir', "$tmp/ks/blue"), ctl(qw(key show blue), @conf), '... by its path');
move("$tmp/kek.away", "$tmp/kek");
refused(2, qr/name one key directory/, 'key show of nothing', qw(key show));
refused(6, qr/not a data directory/, 'key show of no data directory', qw(key show -D), $tmp);
refused(2, qr/there is no keyset "grey" in keystore .*\nHINT:  It has (?=.*\bblue\b)(?=.*\bgreen\b).*\.$/m, 'key show of a keyset that is not there', qw(key show grey), @conf);
refused(2, qr/is not the name of a keyset/, 'key show of no name', qw(key show ..), @conf);

# unlock: the four different errors and more; each with one FATAL line
my $kek = "file:$tmp/kek";
sub unlock
{
	my ($dir, $source, @more) = @_;
	my ($packed, $words) = ('', '');
	IPC::Run::run([ $Walcrypt::ctl, 'unlock', '--key-dir', $dir, '--kek', $source, @more ], '<', \undef, '>', \$packed, '2>', \$words);
	return ($? >> 8, $packed, $words);
}
sub locked
{
	my ($status, $words, $name, @args) = @_;
	my ($rc, $packed, $err) = unlock(@args);
	is($rc, $status, "$name: exit status");
	is($packed, '', "$name: nothing is handed over");
	like($err, qr/^FATAL:  .*$words/, "$name: message");
	is(scalar(() = $err =~ /FATAL/g), 1, "$name: one line");
}
($rc, my $packed, $err) = unlock("$tmp/ks/blue", $kek);
is($rc, 0, 'unlock');
is(substr($packed, 0, 4), 'WCKS', '... hands a packed keyset over');
is(length($packed), 24 + 32 + 40 + 32, '... whole');
($rc, $packed) = unlock("$tmp/ks/blue", "command:cat $tmp/kek; exit 0");
is($rc, 0, 'unlock by a command');
($rc, $packed) = unlock("$tmp/ks/blue", "command:test -f %d/relation.wkey && printf 'encryptionkey=' && cat $tmp/kek");
is($rc, 0, '... that uses %d, in Cybertec\'s form');
locked(5, qr{wrong cluster key.*\nDETAIL:  The keys are wrapped under cluster key \w{16}; file:\Q$tmp\E/kek2 gave \w{16}\.}, 'wrong cluster key', "$tmp/ks/blue", "file:$tmp/kek2");
locked(4, qr/could not open cluster key file/, 'unreachable', "$tmp/ks/blue", "file:$tmp/kek9");
locked(4, qr/key command ended with exit status 7/, 'a command that fails', "$tmp/ks/blue", 'command:exit 7');
locked(6, qr/key provider holds 64 hexadecimal digits/, 'a key in a command', "$tmp/ks/blue", 'command:echo ' . 'a1' x 32);
locked(2, qr/key provider "vault" is not known/, 'an unknown provider', "$tmp/ks/blue", 'vault:x');
locked(1, qr/there is no key directory/, 'no key directory', "$tmp/ks/grey", $kek);
chmod(0640, "$tmp/kek");
locked(6, qr/has mode 0640/, 'a key file that the group may read', "$tmp/ks/blue", $kek);
chmod(0600, "$tmp/kek");

my $live = "$tmp/ks/blue/live";
system('cp', '-rp', "$tmp/ks/blue", "$tmp/blue.good");
sub restore { system('rm', '-rf', "$tmp/ks/blue"); system('cp', '-rp', "$tmp/blue.good", "$tmp/ks/blue"); }
unlink "$live/wal.wkey";
locked(1, qr/key file "\S+wal\.wkey" is missing/, 'missing', "$tmp/ks/blue", $kek);
restore();
open(my $f, '+<:raw', "$live/relation.wkey");
seek($f, 30, 0);
print $f "\0\0\0\0";
close $f;
locked(3, qr/key file "\S+relation\.wkey" is damaged/, 'damaged', "$tmp/ks/blue", $kek);
restore();
move("$live/wal.wkey", "$live/x");
move("$live/relation.wkey", "$live/wal.wkey");
move("$live/x", "$live/relation.wkey");
locked(3, qr/swapped: relation\.wkey holds the key of wal\.wkey/, 'swapped', "$tmp/ks/blue", $kek);
restore();
copy("$tmp/ks/violet/live/wal.wkey", "$live/wal.wkey");
locked(3, qr/wal\.wkey" belongs to another keyset/, 'a file of another keyset', "$tmp/ks/blue", $kek);
restore();
unlink "$live/keyset.json";
locked(6, qr/Cluster File Encryption/, 'CFE\'s two files alone', "$tmp/ks/blue", $kek);
restore();

($rc, undef, $err) = ctl_output('exec', '-D', $tmp, '--kek', 'command:echo ' . 'a1' x 32, 'env');
isnt($rc, 0, 'a key in a command never reaches an environment');

# a terminal or a file is no place for keys
command_fails_like([ 'sh', '-c', "$Walcrypt::ctl unlock --key-dir $tmp/ks/blue --kek $kek >$tmp/unlocked" ], qr/with a pipe for its output/, 'unlock into a file');
is(-s "$tmp/unlocked", 0, '... writes nothing');

# a cut-off change
mkdir "$tmp/ks/blue/new";
($rc) = unlock("$tmp/ks/blue", $kek);
is($rc, 0, 'new/ is there, and the keys open all the same');
like(ctl(qw(key show blue), @conf), qr/^state +active; a change was cut off: walcrypt-ctl key repair/m, '... key show tells of it');
like(ctl(qw(key repair blue), @conf), qr/removed them/, 'key repair undoes it');
($rc) = unlock("$tmp/ks/blue", $kek);
is($rc, 0, '... and the keys open');
move("$tmp/ks/blue/live", "$tmp/ks/blue/old");
system('cp', '-rp', "$tmp/blue.good/live", "$tmp/ks/blue/new");
($rc) = unlock("$tmp/ks/blue", $kek);
is($rc, 0, 'between old and new they open, too');
like(ctl('key', 'repair', '--key-dir', "$tmp/ks/blue"), qr/put them in force/, 'key repair finishes it');
($rc) = unlock("$tmp/ks/blue", $kek);
is($rc, 0, '... and the keys open');
like(ctl(qw(key repair blue), @conf), qr/nothing to do/, 'nothing is left to repair');

# the keys of a key holder are out of reach of others of the same user, and of core dumps
put("$tmp/slow.sh", "#!/bin/sh\nuntil [ -e $tmp/go ]; do sleep 0.1; done\ncat $tmp/kek\n", 0700);
my ($o, $e) = ('', '');
my $run = IPC::Run::start([ $Walcrypt::ctl, 'unlock', '--key-dir', "$tmp/ks/blue", '--kek', "command:$tmp/slow.sh" ], '<', \undef, '>', \$o, '2>', \$e);
my $pid = $run->{KIDS}[0]{PID};
wait_for('the helper', sub { slurp_from("/proc/$pid/cmdline") =~ /unlock/ });
SKIP: {
	skip 'root may read everything', 1 if $> == 0;
	wait_for('its protection', sub { !-r "/proc/$pid/mem" || !open(my $mem, '<', "/proc/$pid/mem") });
	ok(!open(my $mem, '<', "/proc/$pid/mem"), 'nobody reads the memory of a helper');
}
unlike(slurp_from("/proc/$pid/cmdline"), qr/[0-9a-f]{64}/, 'no key in its command line');
put("$tmp/go", '');
$run->finish;
is(substr($o, 0, 4), 'WCKS', 'it does its work');
done_testing();
