# The cluster key in memory: it is used and gone. All readable memory of a process is looked through, by /proc/PID/maps and mem: of
# walcrypt-ctl when it is about to end, of a server that "exec" started, of a proxy that has read its keys. Controls: a process that
# keeps the key, and the relation key, which server and proxy must have.
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Walcrypt;
use Walcrypt::Kmip;
use Walcrypt::Strace;
use Walcrypt::Vault;

needs_strace();
my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/keymemory';
mkdir $tmp, 0700;
my $kek = kek_file("$tmp/kek");
my ($hex) = slurp_from($kek) =~ /^(\w{64})$/m;
my @cluster = (pack('H*', $hex), $hex, uc $hex);

# How many bytes of the process were read, and how often the needles are in them.
sub look
{
	my ($pid, @needles) = @_;
	my ($bytes, $found) = (0, 0);
	open(my $maps, '<', "/proc/$pid/maps") or die "maps of $pid: $!";
	open(my $mem, '<:raw', "/proc/$pid/mem") or die "memory of $pid: $!";
	while (my $line = <$maps>) {
		my ($from, $to, $name) = $line =~ /^(\w+)-(\w+) r\S+ \S+ \S+ \S+\s*(.*)$/ or next;
		next if $name =~ /^\[v(var|syscall|dso)/;
		($from, $to) = (hex $from, hex $to);
		my $tail = '';
		for (my $at = $from; $at < $to; $at += 1 << 20) {
			sysseek($mem, $at, 0);
			my $n = sysread($mem, my $part, $to - $at < 1 << 20 ? $to - $at : 1 << 20) or last;
			$bytes += $n;
			for my $needle (@needles) {
				my $all = $tail . $part;
				for (my $i = 0; ($i = index($all, $needle, $i)) >= 0; $i++) { $found++; }
			}
			$tail = substr($part, -63);
		}
	}
	return ($bytes, $found);
}

sub clean
{
	my ($pid, $what, @needles) = @_;
	my ($bytes, $found) = look($pid, @needles);
	cmp_ok($bytes, '>', 1e6, "$what: $bytes bytes were read");
	is($found, 0, '... the cluster key is not in them');
	return;
}

# Controls: one that has the key, in each form, and one that has it no more.
for my $form (@cluster) {
	my $child = fork() // die;
	if ($child == 0) {
		my $kept = $form . '';
		sleep(600);
		POSIX::_exit(length $kept);
	}
	my ($bytes, $found) = look($child, $form);
	cmp_ok($found, '>', 0, 'the scan finds it in a process that keeps it, ' . length($form) . " bytes ($found times)");
	kill('KILL', $child);
	waitpid($child, 0);
}

# walcrypt-ctl, held where it is about to end. That it is not dumpable keeps us out: that call alone is left away.
sub held
{
	my ($what, @command) = @_;
	my $strace = fork() // die;
	if ($strace == 0) {
		open(STDIN,  '<', '/dev/null');
		open(STDOUT, '>', "$tmp/out");
		open(STDERR, '>', "$tmp/err");
		exec('strace', '-f', '-qq', '-o', "$tmp/trace", '-e', 'trace=prctl,exit_group', '-e', 'inject=prctl:retval=0', '-e', 'inject=exit_group:delay_enter=100000000',
			$Walcrypt::ctl, @command) or POSIX::_exit(126);
	}
	my $ctl = wait_for("$what to end", sub {
		die "strace ended: " . slurp_from("$tmp/err") if waitpid($strace, POSIX::WNOHANG()) == $strace;
		for my $pid (split(/\s+/, slurp_from("/proc/$strace/task/$strace/children"))) {
			return $pid if slurp_from("$tmp/trace") =~ /^$pid +exit_group\(/m;
		}
		return 0;
	});
	is(slurp_from("$tmp/trace") =~ /^\d+ +exit_group\((\d+)/m ? $1 : '?', 0, "$what: done") or diag(slurp_from("$tmp/err"));
	clean($ctl, $what, @cluster);
	kill('KILL', $ctl, $strace);
	waitpid($strace, 0);
	return;
}
my $config = "$tmp/w.ini";
open(my $f, '>', $config) or die;
print $f "[walcrypt]\nauth_type = trust\nkeystore = $tmp/ks\n[kek one]\nuri = file:$kek\n[node blue]\nkeyset = blue\nkek = one\n";
close $f;
chmod 0600, $config;
my @conf = ('--config', $config);
ctl(qw(key init blue --system-identifier 7300000000000000001), @conf);
open(my $words, '>', "$tmp/words") or die;
print $words "correct horse battery\n";
close $words;
chmod 0600, "$tmp/words";
held('key show',               qw(key show blue),   @conf);
held('key verify',             qw(key verify blue), @conf);
held('key verify by a command', qw(key verify blue), @conf, '--kek', "command:cat $kek");
held('key alter',              qw(key alter blue),  @conf, '--new-kek', 'file:' . kek_file("$tmp/kek2"));
ctl(qw(key alter blue), @conf, '--kek', "file:$tmp/kek2", '--new-kek', "file:$kek");
held('key new-epoch',          qw(key new-epoch blue --timeline 1), @conf);
held('key backup',             qw(key backup), "$tmp/backup", @conf, '--passphrase-file', "$tmp/words");

# the same key in OpenBao
my $vault = Walcrypt::Vault->new(name => 'dev327');
ctl(qw(key move blue --create-kek --new-kek), $vault->uri('vault-kv', 'secret/one'), @conf);
held('key verify from OpenBao', qw(key verify blue), @conf, '--kek', $vault->uri('vault-kv', 'secret/one'));

# a server
my $node = Walcrypt::Node->new('main');
$node->init_encrypted("file:$kek");
$node->start;
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT generate_series(1, 1000) AS i; CHECKPOINT');
clean($node->{_pid}, 'the server', @cluster);
my $relation = sub {
	my ($dir) = @_;
	my $out = `python3 -c "import sys; sys.path.insert(0, 'tests/decoder'); import decoder; print(decoder.open_key_dir('$dir', decoder.read_kek('$kek')).relation.hex())"`;
	return $out =~ /^(\w{64})$/ ? pack('H*', $1) : die "no relation key: $out";
};
# what it needs for a page is derived from the relation key: 64 bytes of XTS
sub xts { my ($key) = @_; my $out = `python3 -c "import sys; sys.path.insert(0, 'tests/decoder'); import decoder; print(decoder.derive(bytes.fromhex('@{[unpack('H*', $key)]}'), 'walcrypt page xts v1', 64).hex())"`; chomp $out; return pack('H*', $out); }
my $key = $relation->($node->data_dir . '/pg_cryptokeys');
my (undef, $found) = look($node->{_pid}, $key, substr(xts($key), 0, 32));
cmp_ok($found, '>', 0, "... the scan finds the relation key, which it must have ($found times)");
$node->stop;

# a proxy
my $red = Walcrypt::Node->new('red');
$red->init(allows_streaming => 1, extra => ['-k']);
$red->start;
my $proxy = Walcrypt::Proxy->new(kek => $kek, nodes => { red => { conninfo => $red->connstr_for_proxy }, blue => { keyset => 'blue' } });
$proxy->key_init('blue');
$proxy->start;
my $child = $proxy->pid;
clean($child, 'the proxy', @cluster);
$key = $relation->($proxy->keystore . '/blue');
(undef, $found) = look($child, $key);
cmp_ok($found, '>', 0, "... the scan finds the relation key, which it must have ($found times)");
my $log = $proxy->log_size;
kill('HUP', $child);
wait_for('the proxy to read its keys again', sub { $proxy->log($log) =~ /reloaded; sessions|stays as it was/ });
clean($child, 'the proxy after a reload', @cluster);

# the same key in a KMIP server, the connection to which stays
my $kmip = Walcrypt::Kmip->new(name => 'kmip327');
$kmip->client('register', 'one', $hex, 'active');
$proxy->{kek_uri} = $kmip->uri('one');
$proxy->write_conf;
my $sessions = sub { return scalar(() = slurp_from($kmip->logfile) =~ /Starting session/g); };
my $began = $sessions->();
for my $n (1, 2) {
	$log = $proxy->log_size;
	kill('HUP', $child);
	wait_for('the proxy to read its keys by KMIP', sub { $proxy->log($log) =~ /reloaded; sessions|stays as it was/ });
	like($proxy->log($log), qr/reloaded; sessions/, "reload $n by KMIP");
}
is($sessions->() - $began, 1, 'over one connection, which is open');
clean($child, 'the proxy with it', @cluster);
$proxy->stop;
$red->stop;
done_testing();
