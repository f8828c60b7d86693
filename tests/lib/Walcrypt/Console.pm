# What the console says, as rows of hashes, and a plain HTTP client for the page's data and metrics.
package Walcrypt::Console;

use strict;
use warnings;
use Exporter 'import';
use IO::Socket::INET;
use IPC::Run ();

our @EXPORT = qw(console_rows http_get http_raw);

# SHOW's rows: a list of hashes.
sub console_rows
{
	my ($proxy, $query, $user) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'psql', '-XA', '-F', "\x1f", '-P', 'footer=off', '-d', $proxy->connstr($user // 'monitor') . ' dbname=walcrypt', '-c', $query ], '<', \undef, '>', \$out, '2>', \$err)
		or die "$query: $err";
	my ($names, @rows) = map { [ split /\x1f/, $_, -1 ] } split /\n/, $out;
	return map { my %r; @r{@$names} = @$_; \%r } @rows;
}

# Send bytes and read all that comes until the server closes; with seconds, at most so long (undef then: it did not close).
sub http_raw
{
	my ($port, $bytes, $seconds) = @_;
	my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "no connection to port $port: $!";
	local $SIG{ALRM} = sub { die "silence\n" };
	my $all = '';
	my $ok = eval {
		alarm($seconds // 60);
		print $s $bytes if $bytes ne '';
		$s->flush;
		while (sysread($s, my $part, 65536)) { $all .= $part; }
		alarm(0);
		1;
	};
	alarm(0);
	close $s;
	return $ok ? $all : undef;
}

# (status, headers as text, body)
sub http_get
{
	my ($port, $path, %with) = @_;
	my $method = $with{method} // 'GET';
	my $host = $with{host} // "127.0.0.1:$port";
	my $answer = http_raw($port, "$method $path HTTP/1.1\r\nHost: $host\r\n" . ($with{headers} // '') . "\r\n");
	my ($head, $body) = $answer =~ /^(.*?)\r\n\r\n(.*)$/s or die "no HTTP answer: $answer";
	my ($status) = $head =~ m{^HTTP/1\.1 (\d+)} or die "no status: $head";
	return ($status, $head, $body);
}

1;
