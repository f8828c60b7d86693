# Cluster keys from a real OpenBao server: KV version 2 and 1, made, read, pinned, deleted; what the server refuses, and what a
# broken server or network does. Each fault has its own words and its own exit status.
use strict;
use warnings;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use Walcrypt;
use Walcrypt::KeyCommands;
use Walcrypt::Vault;

my $tmp = $PostgreSQL::Test::Utils::tmp_check . '/vault340';
mkdir $tmp, 0700;
my $dev = Walcrypt::Vault->new(name => 'dev340');
my $tls = Walcrypt::Vault->new(name => 'tls340', tls => 1);
my $n   = 0;
never_said(qr/root-of-/);
sub init { return init_with($tmp, @_); }
sub denied { return init_refused($tmp, @_); }

# made, read again, never overwritten
my $uri = $dev->uri('vault-kv', 'secret/walcrypt');
denied(1, qr/^ERROR:  "127\.0\.0\.1:\d+" has no secret "secret\/walcrypt"\nHINT:  --create-kek makes it\.$/m, 'not there', $uri);
my ($rc, $out, $err) = init($uri, 1);
is($rc, 0, 'key init --create-kek makes the secret') or diag $err;
my $config = last_conf();
my $key = $dev->cli(qw(kv get -field=key secret/walcrypt));
like($key, qr/^[0-9a-f]{64}$/, 'it is there');
($rc, $out, $err) = ctl_output(qw(key init green --system-identifier 7000000000000000001 --create-kek --config), $config);
is($rc, 0, 'a second keyset takes it from there');
is($dev->cli(qw(kv get -field=key secret/walcrypt)), $key, 'and it stays what it was');
like(ctl(qw(key show blue --config), $config), qr{^cluster key .*, version 1\nprovider +vault-kv\+http://\S+/secret/walcrypt\b}m, 'key show names provider and version');

# versions: another key is not ours; the pinned one is
$dev->cli(qw(kv put secret/walcrypt), 'key=' . '0' x 64);
($rc, $out, $err) = init("$uri&version=1");
is($rc, 0, 'a pinned version') or diag $err;
($rc, $out, $err) = init("$uri&version=9");
like($err, qr/has no secret "secret\/walcrypt" of version 9/, 'a version that is not there');
denied(2, qr/version "x" is not a number/, 'a version that is no number', "$uri&version=x");
$dev->cli(qw(kv delete secret/walcrypt));
denied(1, qr/the secret "secret\/walcrypt" was deleted.*\nHINT:  Undelete it/, 'a deleted secret', $uri);
($rc, $out, $err) = init($uri, 1);
is($rc, 1, 'is not made anew');
like($err, qr/was deleted/, 'and says so');

# version 1 of the engine
$dev->enable('old/kv', 'secrets', 'kv', '-version=1');
my $old = $dev->uri('vault-kv', 'old/kv/team%20a/key');
denied(1, qr/has no secret "old\/kv\/team a\/key"/, 'version 1, not there', $old);
is((init($old, 1))[0], 0, 'version 1, made');
like($dev->cli('kv', 'get', '-mount=old/kv', '-field=key', 'team a/key'), qr/^[0-9a-f]{64}$/, 'under its name');
is((init($old))[0], 0, 'version 1, read');
denied(2, qr/keeps no versions/, 'version 1 has none', "$old&version=1");

# names that want escaping, long ones
for my $name ('a b', 'per%25cent', "caf%C3%A9", 'x' x 250, 'y' x 256, 'q%3Fuery%23') {
	is((init($dev->uri('vault-kv', "secret/$name"), 1))[0], 0, 'name ' . substr($name, 0, 20));
}
is($dev->cli('kv', 'list', '-format=json', 'secret') =~ tr/"//, 14, 'seven secrets, none under a cut name');
denied(2, qr/has a part that is empty, "\." or "\.\."/, 'a name with ..', $dev->uri('vault-kv', 'secret/../sys/x'));
denied(2, qr/not followed by two hexadecimal digits/, 'half an escape', $dev->uri('vault-kv', 'secret/%zz'));
denied(2, qr/has a part that is empty/, 'no name at all', $dev->uri('vault-kv', 'secret/'));
denied(2, qr/names a secrets engine, not a secret/, 'an engine alone', $dev->uri('vault-kv', 'secret'));
$dev->enable('transit', 'secrets', 'transit');
denied(2, qr/belongs to a secrets engine of type transit, not kv/, 'another engine', $dev->uri('vault-kv', 'transit/keys'));

# damaged secrets
$dev->cli('kv', 'put', 'secret/bad', "key=$_->[1]"), denied(1, $_->[2], $_->[0], $dev->uri('vault-kv', 'secret/bad'))
  for ['short key', 'ab' x 31, qr/gave no cluster key/], ['long key', 'ab' x 33, qr/gave no cluster key/], ['no hex', 'zz' x 32, qr/gave no cluster key/],
  ['huge', 'ab' x 40000, qr/is longer than 65535 bytes/];
$dev->cli(qw(kv put secret/bad other=1));
denied(1, qr/has no text member "key"/, 'without the member', $dev->uri('vault-kv', 'secret/bad'));

# tokens
my $reader = $dev->token_for('reader', qq(path "secret/data/walcrypt2" { capabilities = ["read"] }\n));
$dev->cli('kv', 'put', 'secret/walcrypt2', "key=$key");
my $token_file = $dev->put_token($reader, "$tmp/token");
my $second = $dev->uri('vault-kv', 'secret/walcrypt2', token_file => $token_file);
is((init($second))[0], 0, 'a token that may read this secret only') or diag $err;
denied(4, qr/denies the token access to "secret\/walcrypt".*\nHINT:  The token may have expired/s, 'of another secret',
	$dev->uri('vault-kv', 'secret/walcrypt', token_file => $token_file));
$dev->cli('token', 'revoke', $reader);
denied(4, qr/denies the token access/, 'a revoked token', $second);
denied(4, qr/could not open token file "$tmp\/nowhere"/, 'no token file', $dev->uri('vault-kv', 'secret/walcrypt2', token_file => "$tmp/nowhere"));
chmod 0644, $token_file;
denied(6, qr/token file "\S+" may be read or written by everybody\nHINT:  chmod/, 'an open token file', $second);
$dev->put_token('two words', "$tmp/words");
denied(1, qr/does not begin with a line that is a token/, 'no token', $dev->uri('vault-kv', 'secret/walcrypt2', token_file => "$tmp/words"));
denied(2, qr/unknown option "tokenfile"/, 'an unknown option', "$uri&tokenfile=x");
my ($bare) = $second =~ /^([^?]*)/;
chmod 0600, $token_file;
$dev->put_token($dev->token_for('reader2', qq(path "secret/data/walcrypt2" { capabilities = ["read"] }\n)), $token_file);
is((init($bare, 0, "token_file = $token_file"))[0], 0, 'options in the configuration instead');

# TLS: trusted, not trusted, another host's name, not TLS at all; sealed
my $safe = $tls->uri('vault-kv', 'secret/walcrypt');
is((init($safe, 1))[0], 0, 'over TLS');
denied(4, qr/the certificate of "localhost:\d+" is not trusted\n.*HINT:  ca_file/s, 'an authority that is not known', $tls->uri('vault-kv', 'secret/walcrypt', ca_file => undef));
denied(4, qr/is not trusted/, 'another authority', $tls->uri('vault-kv', 'secret/walcrypt', ca_file => $tls->ca_file =~ s/ca\.pem/other.pem/r));
denied(2, qr/could not read the certificate authority's file/, 'no authority', $tls->uri('vault-kv', 'secret/walcrypt', ca_file => "$tmp/none"));
denied(4, qr/the certificate of "127\.0\.0\.1:\d+" is not trusted/, "another host's certificate", $safe =~ s/localhost/127.0.0.1/r);
denied(4, qr/could not reach/, 'a server without TLS', $uri =~ s/\+http//r);
denied(6, qr/clear http is refused for "192\.0\.2\.1"/, 'clear http over a network', 'vault-kv+http://192.0.2.1/secret/x?token_file=' . $dev->token_file);
$tls->stop;
$tls->start;
my $start = time();
denied(4, qr/is sealed or in maintenance\n.*HINT:  Unseal it/s, 'sealed', $safe);
cmp_ok(time() - $start, '>', 1, 'after some tries');
$tls->unseal;
is((init($safe))[0], 0, 'and unsealed again');

# A server that is broken: what no real one can be made to say.
sub broken
{
	my ($answer) = @_;
	my $listen = IO::Socket::INET->new(Listen => 20, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die;
	my $count = "$tmp/count" . ++$n;
	my $pid = fork() // die;
	if ($pid == 0) {
		while (my $c = $listen->accept) {
			open(my $f, '>>', $count); print $f 'x'; close $f;
			if (ref $answer) { $answer->($c, -s $count); next; }
			my $line = '';
			while (defined(my $l = <$c>)) { last if $l =~ /^\r?\n$/; }
			print $c $answer;
			close $c;
		}
		POSIX::_exit(0);
	}
	return ({ pid => $pid, count => $count }, 'vault-kv+http://127.0.0.1:' . $listen->sockport . '/secret/x?token_file=' . $dev->token_file);
}

sub gone { my ($s) = @_; kill('KILL', $s->{pid}); waitpid($s->{pid}, 0); return -s $s->{count} // 0; }

sub answer { my ($status, $body, @headers) = @_; return "HTTP/1.1 $status\r\nContent-Length: " . length($body) . "\r\n" . join('', map { "$_\r\n" } @headers) . "Connection: close\r\n\r\n$body"; }

for my $t (
	[ 'too many requests', answer('429 Too Many', '{"errors":["slow down"]}'), 4, qr/has too many requests\nDETAIL:  It said: slow down/, 5 ],
	[ 'server error',      answer('500 Oops', '{"errors":["storage is gone"]}'), 4, qr/answered with status 500\nDETAIL:  It said: storage is gone/, 5 ],
	[ 'redirect',          answer('307 There', '', "Location: http://127.0.0.1:1/v1/secret/x"), 4, qr/sends the request elsewhere, which is not followed/, 1 ],
	[ 'no JSON',           answer('200 OK', 'hello'), 1, qr/is not JSON/, 1 ],
	[ 'truncated',         substr(answer('200 OK', '{"data":{"path":"secret/","type":"kv"}}'), 0, -5), 4, qr/could not reach|did not answer/, 5 ],
	[ 'an empty answer',   '', 4, qr/could not reach/, 5 ],
	[ 'an answer of a megabyte', answer('200 OK', 'x' x (1 << 20)), 1, qr/is longer than 65535 bytes/, 1 ],
	[ 'reset', sub { my ($c) = @_; setsockopt($c, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack('ii', 1, 0)); close $c; }, 4, qr/could not reach/, 5 ])
{
	my ($name, $says, $status, $words, $tries) = @$t;
	my ($server, $at) = broken($says);
	denied($status, $words, $name, $at);
	is(gone($server), $tries, "$name: tried $tries times");
}
{
	my @held;
	my ($server, $at) = broken(sub { push @held, $_[0]; });
	$start = time();
	denied(4, qr/did not answer in time/, 'a server that hangs', $at, 'timeout = 1500ms');
	cmp_ok(time() - $start, '<', 20, 'within its time');    # and not in the 30 s that are the default
	gone($server);
}
{
	# the first answer of a POST is lost: the second meets the first's secret, and that is ours
	my ($server, $at) = broken(sub {
		my ($c, $count) = @_;
		my $head = '';
		while (defined(my $l = <$c>)) { $head .= $l; last if $l =~ /^\r?\n$/; }
		my ($len) = $head =~ /^content-length: (\d+)/im;
		read($c, my $body, $len // 0);
		my $s = IO::Socket::INET->new(PeerAddr => $dev->host_port) or die;
		print $s $head =~ s/^(host|connection):.*\r\n//gimr =~ s/\r\n/\r\nHost: x\r\nConnection: close\r\n/r, $body;
		local $/;
		my $reply = <$s>;
		print $c $reply unless $head =~ /^POST/ && !-e "$tmp/lost" && open(my $f, '>', "$tmp/lost");
		close $c;
	});
	is((init($at =~ s{secret/x}{secret/lost}r, 1))[0], 0, 'a lost answer to the making of a key does not make it fail');
	ok(-e "$tmp/lost", 'one was lost');
	gone($server);
	like($dev->cli(qw(kv get -field=key secret/lost)), qr/^[0-9a-f]{64}$/, 'the secret is there');
}
denied(4, qr/could not reach/, 'nobody listens', 'vault-kv+http://127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port() . '/secret/x?token_file=' . $dev->token_file);
denied(2, qr/is not of the form/, 'no host', 'vault-kv:/secret/x');

done_testing();
