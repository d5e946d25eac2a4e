// Exits with 0 if this JVM accepts the certificate that is presented on a port
// of loopback, for a host's name. Arguments: the port, the name.
import java.net.Socket;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.SSLSocketFactory;

class Probe {
	public static void main(String[] args) throws Exception {
		int port = Integer.parseInt(args[0]);
		SSLSocketFactory tls = (SSLSocketFactory) SSLSocketFactory.getDefault();
		try (SSLSocket s = (SSLSocket) tls.createSocket(new Socket("127.0.0.1", port), args[1], port, true)) {
			SSLParameters p = s.getSSLParameters();
			p.setEndpointIdentificationAlgorithm("HTTPS");
			s.setSSLParameters(p);
			s.startHandshake();
		}
	}
}
